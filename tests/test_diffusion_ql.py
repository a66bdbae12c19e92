"""Diffusion-QL and its diffusion model, against a plain loop and plain figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import ASPC, Dataset, MetaLoss
from adaptive_constraints.baselines import DiffusionQL
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine import noise
from adaptive_constraints.errors import DatasetError, StackError
from adaptive_constraints.networks import VariancePreserving, denoise, init_noise_network, noise_error
from adaptive_constraints.testing import Probe, check_learner

from .helpers import apart_from_alone, build, different, learned, meta_gradients, random_data, resolved_of, trained
from .reference.common import beside
from .reference.diffusion_ql import PlainDiffusionQL
from .small_adapters import Held

SMALL = DiffusionQL(hidden=8, batch_size=16, diffusion_steps=2, candidates=5, backup_actions=3)

# -- the plain loop ---------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "as it is": {"actor_average_start": 50},
    "every option": {
        "eta": 2.5,
        "max_q_backup": True,
        "critic": "robust",
        "gradient_clip": 0.3,
        "learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "actor_average_start": 30,
        "actor_average_every": 2,
    },
}


@pytest.mark.parametrize("case", PLAIN)
def test_equals_a_plain_loop_in_float32(case):
    engine, loop = beside(
        PlainDiffusionQL, DiffusionQL(hidden=64, batch_size=64, **PLAIN[case]), steps=100, dtype=torch.float32
    )
    assert loop.largest_deviation(engine) < 1e-5
    assert (loop.clipped > 100) == (case == "every option")


def test_the_real_sizes_equal_a_plain_loop():
    engine, loop = beside(
        PlainDiffusionQL, DiffusionQL(actor_average_start=0, actor_average_every=2), steps=3, dtype=torch.float64
    )
    assert (resolved_of(engine).learner.hidden, resolved_of(engine).learner.batch_size) == (256, 256)
    assert loop.largest_deviation(engine) < 1e-10


# -- the diffusion model ----------------------------------------------------------------------------------------------


def test_the_schedule_is_the_papers():
    schedule = VariancePreserving()
    assert [round(beta, 3) for beta in schedule.betas] == [0.196, 0.459, 0.636, 0.755, 0.835]
    assert round(schedule.alpha_bars[-1], 4) == 0.0064
    assert schedule.step_at(torch.tensor([0.0, 0.19, 0.21, 0.99, 1.0])).tolist() == [0, 0, 1, 4, 4]


def test_samples_broadcast_over_observations():
    """Several samples per observation at once are those of each alone; so are several networks."""
    draw = torch.Generator().manual_seed(0)
    networks = [init_noise_network(3, 2, draw, hidden=16) for _ in range(2)]
    schedule, observation = VariancePreserving(4), torch.randn(7, 3, generator=draw)
    start, noises = torch.randn(6, 7, 2, generator=draw), torch.randn(3, 6, 7, 2, generator=draw)
    together = denoise(networks[0], schedule, observation, start, noises)
    alone = [denoise(networks[0], schedule, observation, start[i], noises[:, i]) for i in range(6)]
    torch.testing.assert_close(together, torch.stack(alone))
    both = {name: torch.stack([p[name] for p in networks]) for name in networks[0]}
    actions = denoise(both, schedule, observation, start[0], noises[:, 0])
    expected = [denoise(p, schedule, observation, start[0], noises[:, 0]) for p in networks]
    torch.testing.assert_close(actions, torch.stack(expected))
    t = schedule.step_at(torch.rand(7, generator=draw))
    errors = noise_error(both, schedule, start[0], observation, t, start[1])
    assert errors.shape == (2, 7)
    torch.testing.assert_close(errors[1], noise_error(networks[1], schedule, start[0], observation, t, start[1]))


def test_a_model_learns_both_modes_where_there_are_two():
    """At s = 0 actions lie about -0.7 and 0.7, at s = 1 about 0.2.

    In 10 steps: in 5, even the best network leaves a third of the samples between the modes.
    """
    draw, schedule, rows = torch.Generator().manual_seed(0), VariancePreserving(10), 192
    p = {name: t.requires_grad_() for name, t in init_noise_network(1, 1, draw, hidden=64).items()}
    optimizer = torch.optim.Adam(p.values(), lr=8e-3, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    s = (torch.arange(rows) % 3 == 0).float()[:, None]
    for _ in range(800):
        sides = torch.where(torch.rand(rows, 1, generator=draw) < 0.5, -0.7, 0.7)
        action = torch.where(s == 1, 0.2, sides) + 0.1 * torch.randn(rows, 1, generator=draw)
        t, eps = schedule.step_at(torch.rand(rows, generator=draw)), torch.randn(rows, 1, generator=draw)
        optimizer.zero_grad()
        noise_error(p, schedule, action, s, t, eps).mean().backward()
        optimizer.step(), decay.step()
    z = torch.randn(10, 2000, 2, 1, generator=draw)
    with torch.no_grad():
        actions = denoise(p, schedule, torch.tensor([[0.0], [1.0]]), z[0], z[1:])

    def share(s: int, at: float) -> float:
        return float(((actions[:, s, 0] - at).abs() < 0.3).float().mean())

    assert share(0, -0.7) > 0.3 and share(0, 0.7) > 0.3
    assert share(0, 0.0) < 0.15
    assert share(1, 0.2) > 0.95


# -- the learner ------------------------------------------------------------------------------------------------------


def test_it_keeps_the_laws_of_a_learner():
    """Shapes, seams, seeds together and alone, traced and eager, resuming, a loaded agent acting as the saved one."""
    check_learner(SMALL)


def test_seeds_together_are_seeds_alone():
    learner = replace(SMALL, max_q_backup=True, critic="robust", gradient_clip=0.5, actor_average_start=3)
    assert apart_from_alone(learner, ASPC(interval=2), steps=20) <= 1e-12


CRITIC_SEAMS = ("bootstrap", "td_weight", "critic_rows")


@pytest.mark.parametrize("seam", sorted(SMALL.facts().seams))
def test_every_seam_is_heard_where_it_should_be(seam):
    """In the group's own first gradient; the actor's follows where the critic has stepped otherwise."""
    bare, probed = trained(SMALL, steps=1), trained(SMALL, Probe(seam=seam, by=0.5), steps=1)
    one, two = ({n: t for n, t in engine.state().items() if "exp_avg" in n} for engine in (bare, probed))
    heard = {name.split("/")[1] for name in different(one, two)}
    assert heard == ({"critic", "actor"} if seam in CRITIC_SEAMS else {"actor"})


def test_the_policys_average_starts_late_and_moves_now_and_then():
    engine = build(DiffusionQL(hidden=4, batch_size=4), dtype=torch.float64)
    initial = learned(engine)
    engine.run(2)
    assert not [name for name in different(learned(engine), initial) if name.startswith("targets/actor")]
    engine.load({name: tensor.clone() for name, tensor in engine.state().items()}, 993)
    for step in range(994, 1012):
        before = learned(engine)
        engine.run(1)
        after = learned(engine)
        rate = 0.005 if step in (1000, 1005, 1010) else 0.0
        for name, old in before.items():
            if name.startswith("targets/actor"):
                new = after[name.replace("targets", "params")]
                torch.testing.assert_close(after[name], old + rate * (new - old), rtol=0, atol=1e-15)
                assert torch.equal(after[name], old) == (rate == 0)
            if name.startswith("targets/critic"):
                new = after[name.replace("targets", "params")]
                torch.testing.assert_close(after[name], old + 0.005 * (new - old), rtol=0, atol=1e-15)


@dataclass(frozen=True)
class Known(DiffusionQL):
    """Candidates at 0, 0.1, 0.2, 0.3, of known values."""

    values: tuple[float, ...] = (1.0, 3.0, 2.0, -4.0)

    def draws(self, v, p, observation, site, count):
        assert count == self.candidates
        shape = (count, len(observation), v.spec.action_dim)
        return (torch.arange(count)[:, None, None] / 10).expand(shape)

    def q(self, p, observation, action):
        own = torch.tensor(self.values)[(action[:, 0] * 10).round().long()]
        return torch.stack([own + 1, own])


def test_acting_takes_a_candidate_by_softmax_or_the_best():
    rows = 20_000
    soft, best = (
        build(Known(candidates=4, selection=selection, hidden=4), seeds=(0, 1)).act(torch.zeros(2, rows, 3), 7)
        for selection in ("softmax", "argmax")
    )
    assert soft.shape == best.shape == (2, rows, 2)
    torch.testing.assert_close(best, torch.full_like(best, 0.1))
    shares = torch.stack([((soft[..., 0] - i / 10).abs() < 1e-6).float().mean(1) for i in range(4)], 1)
    expected = torch.tensor([1.0, 3.0, 2.0, -4.0]).softmax(0)
    torch.testing.assert_close(shares, expected.expand(2, 4), rtol=0, atol=0.012)
    assert not torch.equal(*soft)


def test_candidates_come_from_the_policy_and_scores_from_the_target_critics():
    """One candidate is a plain sample of the policy; the best of many has the highest of all target values."""
    engine = trained(replace(SMALL, actor_average_start=10_000), steps=3)
    with torch.no_grad():  # or both would choose alike
        for tensor in engine.targets["critic"].values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    observation = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))

    def act(learner: DiffusionQL) -> Tensor:
        other = build(learner)
        other.load({name: tensor.clone() for name, tensor in engine.state().items()}, 3)
        return other.act(observation, 0)[0]

    acts = {count: act(replace(SMALL, candidates=count, selection="argmax")) for count in (1, 40)}
    p, target = (
        {name: t[0] for name, t in tree.items()} for tree in (engine.params["actor"], engine.targets["critic"])
    )
    key: dict[str, Any] = {"seeds": torch.tensor([0]), "steps": torch.tensor([0])}
    for count, taken in acts.items():
        z = noise.normal(site="act/candidates", shape=(2, count, 6, 2), dtype=torch.float32, **key)[0, 0]
        candidates = denoise(p, VariancePreserving(2), observation[0], z[0], z[1:])
        score = torch.stack([SMALL.q(target, observation[0], candidate).min(0).values for candidate in candidates])
        torch.testing.assert_close(taken, candidates[score.argmax(0), torch.arange(6)])


# -- the meta step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_closed_form_agrees_with_automatic_differentiation(seeds):
    learner = replace(SMALL, gradient_clip=0.5, critic="robust")
    for one, two in zip(*meta_gradients(learner, rounds=2, horizon=10, seeds=seeds), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=0)
        assert (one != 0).all()


@dataclass(frozen=True)
class Noting(Held):
    """Notes how far the terms moved by a step."""

    def buffers(self, spec, facts):
        return {"moved": torch.zeros(3)}

    def meta_loss(self, v, k, before, after):
        moved = torch.stack([(new - old).abs().max() for old, new in zip(before, after, strict=True)])
        return MetaLoss(after.improvement.mean(), {"moved": moved.detach()})


def test_the_same_noise_before_and_after_a_meta_step():
    """A step of almost no length moves none of the terms; a real one moves all."""
    for rate, moves in ((1e-30, False), (1e-3, True)):
        engine = trained(replace(SMALL, learning_rate=rate), Noting(), steps=2)
        assert ((engine.buffers["noting"]["moved"] > 0) == moves).all()


# -- settings ---------------------------------------------------------------------------------------------------------

TABLE = """
halfcheetah-medium        3e-4 1    n 9
hopper-medium             3e-4 1    n 9
walker2d-medium           3e-4 1    n 1
halfcheetah-medium-replay 3e-4 1    n 2
hopper-medium-replay      3e-4 1    n 4
walker2d-medium-replay    3e-4 1    n 4
halfcheetah-medium-expert 3e-4 1    n 7
hopper-medium-expert      3e-4 1    n 5
walker2d-medium-expert    3e-4 1    n 5
antmaze-umaze             3e-4 .5   n 2
antmaze-umaze-diverse     3e-4 2    y 3
antmaze-medium-play       1e-3 2    y 2
antmaze-medium-diverse    3e-4 3    y 1
antmaze-large-play        3e-4 4.5  y 10
antmaze-large-diverse     3e-4 3.5  y 7
pen-human                 3e-5 .15  n 7
pen-cloned                3e-5 .1   n 8
kitchen-complete          3e-4 .005 n 9
kitchen-partial           3e-4 .005 n 10
kitchen-mixed             3e-4 .005 n 10
"""
"""The paper's: learning rate of the policy, eta, max_q_backup, gradient clip. Its code steps critics at 3e-4 always."""
FAMILIES = {
    "gym": "hopper-medium-expert",
    "antmaze": "antmaze-umaze-diverse",
    "adroit": "pen-human",
    "kitchen": "kitchen-partial",
}


def test_presets_are_the_papers_table():
    rows = {name: rest for name, *rest in map(str.split, TABLE.strip().splitlines())}
    assert rows.keys() | FAMILIES.keys() | {"pendulum"} == DiffusionQL.presets.keys()
    rewards = {"antmaze": (4.0, -2.0), "pen": ("dataset_std", "dataset_mean")}
    for name, (learning_rate, eta, max_q, clip) in rows.items():
        scale, shift = rewards.get(name.partition("-")[0], (1.0, 0.0))
        expected = DiffusionQL(
            learning_rate=float(learning_rate),
            eta=float(eta),
            max_q_backup=max_q == "y",
            gradient_clip=float(clip),
            reward_scale=scale,
            reward_shift=shift,
        )
        assert DiffusionQL.preset(name) == expected, name
    for family, name in FAMILIES.items():
        assert DiffusionQL.preset(family) == DiffusionQL.preset(name)


def test_rewards_are_z_scored():
    data = random_data()
    settings = DiffusionQL.preset("pen-human")
    fitted = Preprocessor.fit(data, reward_scale=settings.reward_scale, reward_shift=settings.reward_shift)
    raw = data.rewards.astype(np.float64)
    rewards = fitted.table(data)["reward"].numpy()
    np.testing.assert_allclose(rewards, (raw - raw.mean()) / raw.std(), atol=1e-5)
    antmaze = DiffusionQL.preset("antmaze-large-play")
    fitted = Preprocessor.fit(data, reward_scale=antmaze.reward_scale, reward_shift=antmaze.reward_shift)
    torch.testing.assert_close(fitted.rewards(torch.tensor([0.0, 1.0])), torch.tensor([-2.0, 2.0]))


def test_equal_rewards_have_no_standard_deviation():
    data = random_data()
    same = Dataset.from_arrays(
        observations=data.observations,
        actions=data.actions,
        rewards=np.full(len(data), 0.1),
        next_observations=data.next_observations,
        terminals=data.terminals,
        timeouts=data.timeouts,
    )
    with pytest.raises(DatasetError, match="rewards that differ"):
        Preprocessor.fit(same, reward_scale="dataset_std")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.0}, "eta must be a number > 0, not 0.0"),
        ({"gradient_clip": 0.0}, "gradient_clip must be a number > 0 or none, not 0.0"),
        ({"candidates": 0}, "candidates must be a whole number >= 1, not 0"),
        ({"diffusion_steps": 0}, "diffusion_steps must be a whole number >= 1"),
        ({"backup_actions": 0}, "backup_actions must be a whole number >= 1"),
        ({"actor_average_every": 0}, "actor_average_every must be a whole number >= 1"),
        ({"actor_rate": 0.0}, r"actor_rate must be a number in \(0, 1\], not 0.0"),
        ({"polyak": 1.5}, r"polyak must be a number in \(0, 1\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(StackError, match=f"DiffusionQL: {message}"):
        DiffusionQL(**settings)


def test_a_chain_of_one_step_and_no_clip_train():
    for learner in (replace(SMALL, diffusion_steps=1), replace(SMALL, gradient_clip=None, max_q_backup=True)):
        engine = trained(learner, steps=2)
        assert not engine.metrics.failures()
