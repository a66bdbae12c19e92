"""Films: the very episodes that are evaluated, whole files or none, and clear words where there are no frames."""

from __future__ import annotations

import sys
from typing import ClassVar

import gymnasium
import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.environments.boundary import EnvironmentWarning
from adaptive_constraints.errors import DependencyError, EvaluationError, FileError

from .fault_kinds import Drift, data, stack

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg (extra video)")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the pipes to FFmpeg


class Seen(Drift):
    """Drift in grey: the first number of its state, which a film keeps about."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    size = (48, 64)
    states: ClassVar[list[float]] = []

    def __init__(self, render_mode: str | None = "rgb_array"):
        self.render_mode = render_mode

    def render(self):
        Seen.states.append(float(self.state[0]))
        return np.full((*self.size, 3), np.clip(128 + 100 * self.state[0], 0, 255).astype(np.uint8))


class Blind(Drift):
    """Refuses to be rendered."""

    def __init__(self):
        pass


@pytest.fixture(scope="module")
def agent():
    trained = stack()
    trained.fit(data(), steps=2, seeds=(4, 7), progress=False, traced=False)
    return trained


@pytest.fixture(autouse=True)
def registered():
    for name, kind in (("Seen", Seen), ("Blind", Blind)):
        gymnasium.register(f"tests/{name}-v0", entry_point=kind, max_episode_steps=4)
    Seen.states.clear()
    yield
    for name in ("Seen", "Blind"):
        del gymnasium.registry[f"tests/{name}-v0"]


def frames(path):
    """Its frames per second and its frames."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about["fps"], [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.parametrize("source", [Seen, "tests/Seen-v0"])
def test_the_film_shows_the_episodes_that_are_evaluated(agent, tmp_path, source):
    path = tmp_path / "new" / "film.mp4"
    evaluation = agent.record(path, source, filmed=2, policy=7, episodes=3, seed=5)
    np.testing.assert_array_equal(evaluation.returns, agent.evaluate(source, episodes=3, seed=5).returns)
    fps, shown = frames(path)
    assert fps == 10 and len(shown) == 10 and shown[0].shape == (48, 64, 3)
    states = np.array(Seen.states[-10:]).reshape(2, 5)
    np.testing.assert_allclose(states[:, 1:].sum(1), evaluation.returns[1, :2], rtol=1e-6)
    grey = np.clip(128 + 100 * states.ravel(), 0, 255)
    np.testing.assert_allclose([frame.mean() for frame in shown], grey, atol=4)
    assert [entry.name for entry in path.parent.iterdir()] == ["film.mp4"]


def test_episodes_are_filmed_as_long_as_they_count(agent, tmp_path):
    agent.record(tmp_path / "film.mp4", Seen, episodes=2, eval_max_steps=2)
    assert len(frames(tmp_path / "film.mp4")[1]) == 3


def test_odd_sizes_are_filmed_too(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(Seen, "size", (33, 47))
    agent.record(tmp_path / "film.mp4", Seen, episodes=1)
    assert len(frames(tmp_path / "film.mp4")[1]) == 5


def test_an_episode_that_goes_otherwise_is_said(agent, tmp_path):
    class Whim(Seen):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + np.random.default_rng().normal(), *rest

    with pytest.warns(EnvironmentWarning, match="the film shows a return of .* do not determine what it does"):
        agent.record(tmp_path / "film.mp4", Whim, episodes=1)


class Cube(Seen):
    """Draws what is no picture."""

    def render(self):
        return np.zeros((2, 2, 2, 2))


class Growing(Seen):
    """Draws a larger picture each time."""

    def render(self):
        self.grown = getattr(self, "grown", 0) + 16
        return np.zeros((32, self.grown, 3), np.uint8)


class Again(Seen):
    """Draws a larger picture in each environment that is made."""

    made: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        Again.made += 1
        self.size = (32, 16 * Again.made)


class Longer(Seen):
    """Ends by itself, unregistered, after three times as many steps as the data's longest episode has."""

    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, self.time == 30, False, {}


def test_an_episode_longer_than_the_datas_is_filmed_whole(agent, tmp_path):
    assert max(data().episode_lengths()) < 30
    evaluation = agent.record(tmp_path / "film.mp4", Longer, episodes=1)
    assert len(frames(tmp_path / "film.mp4")[1]) == 31
    assert sum(Seen.states[-30:]) == pytest.approx(evaluation.returns[0, 0], rel=1e-6)


def test_episodes_of_other_sizes_and_a_failing_ffmpeg_are_refused(agent, tmp_path, monkeypatch):
    with pytest.raises(EvaluationError, match="changes the size of its frames"):
        agent.record(tmp_path / "film.mp4", Again, episodes=2, filmed=2)

    def broken(*_, **__):
        yield
        raise OSError("no encoder")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", broken)
    with pytest.raises(FileError, match=r"ffmpeg cannot make the film .*film.mp4 \(no encoder\)"):
        agent.record(tmp_path / "film.mp4", Seen, episodes=1)
    assert not list(tmp_path.iterdir())


class Dark(Seen):
    """Cannot draw here."""

    def render(self):
        raise RuntimeError("no display")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Drift, r"cannot be filmed: its render_mode is None.*render_mode='rgb_array'"),
        ("tests/Blind-v0", r"tests/Blind-v0 cannot be filmed \(.*pass a function"),
        (Cube, r"render returned an array of shape \(2, 2, 2, 2\).*\[height, width, 3\]"),
        (Growing, r"changes the size of its frames: \(32, 16, 3\), then \(32, 32, 3\)"),
        (Dark, "its render raised RuntimeError: no display. .*MUJOCO_GL is set to egl"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")
def test_no_film_without_frames(agent, tmp_path, source, message):
    with pytest.raises(EvaluationError, match=message):
        agent.record(tmp_path / "film.mp4", source, episodes=1)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused(agent, tmp_path, monkeypatch):
    film = tmp_path / "film.mp4"
    with pytest.raises(EvaluationError, match="of 2 episodes, 1 to 2 can be filmed, not 3"):
        agent.record(film, Seen, episodes=2, filmed=3)
    with pytest.raises(EvaluationError, match="no seed 5 in this agent"):
        agent.record(film, Seen, policy=5)
    with pytest.raises(FileError, match="name a file that ends in .mp4"):
        agent.record(tmp_path / "film.avi", Seen)
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(FileError, match="which is a folder"):
        agent.record(tmp_path / "a.mp4", Seen)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(DependencyError, match=r"pip install 'adaptive-constraints\[video\]'"):
        agent.record(film, Seen)


def test_the_command_line_films(agent, tmp_path, capsys):
    agent.save(tmp_path / "agent.npz")
    words = ["evaluate", str(tmp_path / "agent.npz"), "--env", "tests/Seen-v0", "--episodes", "2"]
    assert main([*words, "--video", str(tmp_path / "film.mp4"), "--filmed", "2"]) == 0
    said = capsys.readouterr().out
    assert f"2 episodes are in {tmp_path / 'film.mp4'}" in said and said.count("+-") == 2
    assert main([*words, "--filmed", "2"]) == 2
    assert "give --video" in capsys.readouterr().err
    assert len(frames(tmp_path / "film.mp4")[1]) == 10
