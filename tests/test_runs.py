"""A run's settings, its identity and the names in its state."""

import inspect
import json
from dataclasses import fields, replace

import pytest
import torch

from adaptive_constraints import ASPC, Agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli.command import RunOptions
from adaptive_constraints.engine.state import grouped, prefixed, under
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.runs.identity import Identity, OnlineIdentity
from adaptive_constraints.runs.settings import OnlineSettings, RunSettings

from .foreign import line_data

DEFAULTS = {entry.name: entry.default for entry in fields(RunSettings)}
ONLINE = OnlineIdentity(OnlineSettings("Hopper-v5", 9, 2, "part", 3, 9), start=4, origin="0f")
KINDS = ("params", "targets", "buffers", "frozen", "adam")
OFFLINE = Identity(wrap(TD3BC(), ASPC()).stack.to_spec(), 4, (0, 7), "ab", "bf16", True)


@pytest.mark.parametrize("method", [Agent.fit, Agent.finetune])
def test_methods_take_every_setting_with_its_default(method):
    taken = inspect.signature(method).parameters
    own = {"eval_env"} if method is Agent.finetune else set()
    assert set(DEFAULTS) <= set(taken)
    assert all(taken[name].default == default for name, default in DEFAULTS.items() if name not in own)


def test_commands_have_the_same_defaults():
    defaults = {entry.name: entry.default for entry in fields(RunOptions) if entry.name in DEFAULTS}
    assert defaults.pop("eval_env") == "auto"
    assert defaults == {name: DEFAULTS[name] for name in defaults}
    assert set(DEFAULTS) - set(defaults) == {"eval_env", "eval_seed", "loggers", "out", "progress"}


def test_settings_are_taken_by_name(tmp_path):
    made = RunSettings.of({"log_every": 3, "other": 1, "eval_seed": 2}, eval_seed=5, out=str(tmp_path))
    assert (made.log_every, made.eval_seed, made.folder) == (3, 5, tmp_path)
    assert RunSettings(**vars(made)) == made
    with pytest.raises(TrainingError, match="log_every must be at least 1, not 0"):
        RunSettings.of({"log_every": 0})


@pytest.mark.parametrize("identity", [OFFLINE, replace(OFFLINE, online=ONLINE)], ids=["offline", "online"])
def test_an_identity_is_what_its_json_says(identity):
    tree = json.loads(json.dumps(identity.to_json()))
    tree["data"]["name"], tree["device"] = "more", "cpu"
    assert Identity.from_json(tree) == identity
    for name in ("stack", "steps", "seeds", "precision", "compiled", "online", "data"):
        with pytest.raises((ValueError, KeyError)):
            Identity.from_json({key: value for key, value in tree.items() if key != name})
        with pytest.raises((ValueError, TypeError, AttributeError)):
            Identity.from_json(tree | {name: 1.5})


def test_other_online_phases_differ():
    one = replace(OFFLINE, online=ONLINE)
    other = replace(OFFLINE, online=replace(ONLINE, origin="1f", settings=replace(ONLINE.settings, steps=12)))
    assert one.differences(other) == ["online steps 9 there, 12 here", "online began as 0f there, 1f here"]
    assert one.differences(OFFLINE) == ["phase online there, offline here"]
    assert not one.differences(replace(one))


def test_names_in_a_state():
    named = {"actor/w": torch.ones(1), "b": torch.zeros(2)}
    assert under("params", prefixed("params", named) | {"paramsx/c": torch.ones(1)}) == named
    assert grouped({"actor/w/x": named["b"]}) == {"actor": {"w/x": named["b"]}}


def test_a_run_is_what_the_agent_trained():
    agent = wrap(TD3BC(batch_size=4, hidden=8), ASPC())
    with pytest.raises(TrainingError, match="not trained yet"):
        _ = agent.run
    agent.fit(line_data(), steps=3, seeds=2, device="cpu", traced=False, progress=False)
    assert agent.run.identity.stack == agent.stack.to_spec() and agent.run.engine.step == 3
    kinds = {name.partition("/")[0] for name in agent.run.engine.state()}
    assert {"params", "targets", "adam", "metrics"} <= kinds <= {*KINDS, "metrics"}
