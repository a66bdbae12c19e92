"""Runs in words, tables and pictures, as a terminal and a notebook show them."""

from __future__ import annotations

import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import DependencyError, EvaluationError, FileError
from adaptive_constraints.evaluation import Evaluation, summary
from adaptive_constraints.runs.history import History

from .fault_kinds import Drift, data, stack

RUN: dict[str, Any] = {"steps": 4, "seeds": (4, 7), "log_every": 2, "progress": False, "traced": False}
EVALUATED: dict[str, Any] = {"eval_env": Drift, "eval_every": 2, "eval_episodes": 2}
SUCCESS = np.array([[True, False], [False, False]])


class Cells(HTMLParser):
    """The text of every cell; whatever is no element of a table is an error."""

    def __init__(self, html: str):
        super().__init__()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "table", "caption", "thead", "tbody", "tr", "th", "td", "p")
        self.texts += [""] * (tag in ("td", "th", "caption", "p"))

    def handle_data(self, text):
        self.texts[-1] += text


def successful() -> History:
    """Two seeds, of which the second is lost at the end."""
    first = Evaluation(2, np.array([[1.0, 3.0], [5.0, 7.0]]), None, SUCCESS)
    last = Evaluation(4, np.array([[2.0, 4.0], [np.nan, 7.0]]), None, SUCCESS)
    return History((4, 7), steps=4, evaluations=[first, last], failures={7: Failure(3, "critic/loss")})


def test_what_is_not_trained_says_so():
    agent = stack()
    assert repr(agent).startswith("wrap(TD3BC(") and repr(agent).endswith("))")
    assert Cells(agent._repr_html_()).texts == ["TD3BC + aspc, not trained yet"]


def test_a_run_in_one_line_and_in_a_table():
    agent = stack()
    history = agent.fit(data(), **RUN)
    assert repr(history) == "History(4 steps of 2 seeds, not evaluated)"
    assert repr(agent).endswith("at step 4 of 4: History(4 steps of 2 seeds, not evaluated)")
    assert Cells(history._repr_html_()).texts[1:] == ["seed", "4", "7"]
    agent = stack()
    history = agent.fit(data(), **RUN | EVALUATED)
    last, best = history.summary().last, history.summary().best
    assert repr(history) == f"History(4 steps of 2 seeds, evaluated 2 times: at last return {last.mean():.1f})"
    caption, *cells = Cells(agent._repr_html_()).texts
    assert caption.startswith("TD3BC + aspc at step 4 of 4, on few: 2 seeds, evaluated 2 times")
    assert cells[:4] == ["seed", "last return", "best return", "mean of last ten"]
    assert cells[4:7] == ["4", f"{last[0]:.1f}", f"{best[0]:.1f}"] and cells[8] == "7"


def test_success_and_lost_seeds_are_shown():
    history = successful()
    assert repr(history).endswith("2 seeds, 1 lost, evaluated 2 times: at last return 3.0, success 50 %)")
    cells = Cells(history._repr_html_()).texts
    assert cells[1:7] == ["seed", "last return", "best return", "mean of last ten", "last success %", "lost at step"]
    assert cells[7:13] == ["4", "3.0", "3.0", "2.5", "50.0", ""]
    assert cells[17:] == ["nan", "3"]
    np.testing.assert_array_equal(history.summary().success, [50.0, np.nan])
    assert summary([Evaluation(1, np.zeros((1, 1)))]).success is None


def test_success_stands_beside_the_score_while_a_run_goes_on(capsys):
    class Goal(Drift):
        def step(self, action):
            *answer, _ = super().step(action)
            return *answer, {"success": True}

    stack().fit(data(), **RUN | EVALUATED | {"eval_env": Goal, "progress": True})
    assert "score 100.0, success 100 %" in capsys.readouterr().out


def test_an_evaluation_in_one_line_and_in_a_table():
    evaluation = successful().evaluations[0]
    assert repr(evaluation) == "Evaluation(step=2, 2 policies of 2 episodes: return 4.0, success 25 % on average)"
    assert Cells(evaluation._repr_html_()).texts == [
        *("evaluated at step 2: 2 episodes each", "policy", "return", "success %"),
        *("0", "2.0", "50.0", "1", "6.0", "0.0"),
    ]


def test_names_are_escaped():
    agent = stack()
    agent.fit(replace(data(), name="<script>alert(1)</script>"), **RUN)
    assert "<script>" not in agent._repr_html_() and "&lt;script&gt;" in agent._repr_html_()


def test_curves_are_drawn_and_shown(tmp_path):
    agent = stack()
    history = agent.fit(data(), **RUN | EVALUATED)
    figure = history.plot(title="a run")
    assert [panel.get_ylabel() for panel in figure.axes][:1] == ["episode return"]
    assert {panel.get_ylabel() for panel in figure.axes[1:]} == set(history.adaptive)
    assert figure._repr_png_().startswith(b"\x89PNG")
    for name, begins in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        assert history.plot(tmp_path / "new" / name).read_bytes().startswith(begins)
    assert len(list((tmp_path / "new").iterdir())) == 3
    with pytest.raises(FileError, match="its name must end in one of .*png"):
        history.plot(tmp_path / "a.docx")


def test_one_evaluation_is_a_point():
    history = successful()
    del history.evaluations[1:]
    assert history.plot().axes[0].get_lines()[-1].get_marker() == "o"


def test_what_cannot_be_drawn_says_why(monkeypatch):
    with pytest.raises(EvaluationError, match="nothing to draw: the run was never evaluated; give fit an eval_env"):
        History((0,)).plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"adaptive-constraints\[plots\]"):
        successful().plot()
