"""The conformance suite: who keeps the laws passes, and who breaks one is told which."""

from dataclasses import dataclass, replace

import pytest
import torch

from adaptive_constraints import ASPC, Adapter, AdapterStage, FixedTradeoff, LinearTradeoff, Stage, Update, ablate, wrap
from adaptive_constraints.baselines import TD3BC, ReBRAC
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_adapter, check_learner, made_data

from .sketches import TinyCQL, TinyFQL, TinyIQL

SMALL = TD3BC(hidden=8, batch_size=16)


@pytest.mark.parametrize(
    "learner",
    [SMALL, ReBRAC(hidden=8, batch_size=16), TinyCQL(), TinyIQL(), TinyFQL()],
    ids=lambda learner: type(learner).__name__,
)
def test_learners_keep_the_laws(learner):
    check_learner(learner)


@pytest.mark.parametrize(
    "adapter", [ASPC(interval=1), FixedTradeoff(value=2.0), LinearTradeoff()], ids=lambda adapter: adapter.name
)
def test_adapters_keep_the_laws(adapter):
    check_adapter(adapter, SMALL)


# -- who breaks a law -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deaf(TD3BC):
    """Says it asks a seam that it does not ask."""

    def facts(self):
        facts = super().facts()
        return replace(facts, seams=facts.seams | {"value_action"})


@dataclass(frozen=True)
class Moody(TD3BC):
    """Starts from the global generator."""

    def init(self, spec, generator):
        return super().init(spec, torch.Generator().manual_seed(torch.seed() % 1000))


@dataclass(frozen=True)
class Wild(TD3BC):
    """Leaves the box."""

    def act(self, v, observation):
        return 3 * super().act(v, observation)


@dataclass(frozen=True)
class Loose(TD3BC):
    """Leaves the box where its network saturates."""

    def act(self, v, observation):
        return 1.5 * super().act(v, observation)


@dataclass(frozen=True)
class Mistaken(TD3BC):
    """Says that it has another kind of policy."""

    def facts(self):
        return replace(super().facts(), distribution="gaussian")


@dataclass(frozen=True)
class Homebound(TD3BC):
    """Has no policy step online."""

    def stages(self, phase):
        return super().stages(phase)[:1] if phase == "online" else super().stages(phase)


@dataclass(frozen=True)
class Reversed(TD3BC):
    """Says that its trade-off scales the other term."""

    def facts(self):
        return replace(super().facts(), scales="constraint")

    def constrained_loss(self, p, v, k):
        terms = self.terms(p, v)
        return (k * terms.improvement + v.weighted(terms.constraint)).mean(), terms


@dataclass(frozen=True)
class Adding(TD3BC):
    """Says that it adds up what it averages."""

    def facts(self):
        return replace(super().facts(), sums_dimensions=True)


@dataclass(frozen=True)
class Halving(ReBRAC):
    """Adds up, and takes half of it: on two dimensions that is their mean."""

    def terms(self, p, v):
        terms = super().terms(p, v)
        return terms._replace(constraint=terms.constraint / 2)


@dataclass(frozen=True)
class Averaging(ReBRAC):
    """Says that it averages what it adds up."""

    def facts(self):
        return replace(super().facts(), sums_dimensions=False)


@dataclass(frozen=True)
class Wide(TD3BC):
    """One column too many."""

    def terms(self, p, v):
        terms = super().terms(p, v)
        return terms._replace(constraint=terms.constraint[:, None])


@dataclass(frozen=True)
class Branching(TD3BC):
    """Looks at a value."""

    def td_error(self, q, target):
        return super().td_error(q, target) if target.mean() > 0 else super().td_error(q, target) * 2


@dataclass(frozen=True)
class Noisy(TD3BC):
    """Draws as one pleases."""

    def sample(self, v, p, observation, site):
        action = self.policy(p, observation)
        return (action + torch.randn_like(action)).clamp(-1, 1)


@dataclass(frozen=True)
class Homeless(TD3BC):
    """Calls a group its policy that is not there."""

    def facts(self):
        return replace(super().facts(), policy="student")


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (Deaf, "asks 'value_action', but another answer changes nothing"),
        (Moody, "init draws from elsewhere"),
        (Wild, "act leaves the action bounds"),
        (Loose, "act far off the data leaves the action bounds"),
        (Mistaken, "its facts say distribution='gaussian', so distribution\\(\\) must give a Gaussian"),
        (Homebound, "its online stages do not step its constrained group"),
        (Reversed, "the trade-off multiplies the constraint, but doubling it adds"),
        (Adding, "averages the dimensions of an action, but its facts say that it adds up"),
        (Averaging, "adds up the dimensions of an action, but its facts say that it averages"),
        (Wide, "its answer to 'terms, constraint' has the shape"),
        (Homeless, "no group 'student'"),
        (Branching, "branches on a tensor's value"),
        (Noisy, "draws noise elsewhere|changes"),
    ],
)
def test_a_learner_that_breaks_a_law_is_told_so(learner, words):
    with pytest.raises(AssertionError, match=words):
        check_learner(learner(hidden=8, batch_size=16))


@dataclass(frozen=True)
class Anonymous(Adapter):
    """Draws where others draw."""

    def sample_weight(self, v):
        return v.uniform("weight", v.r.shape)


@dataclass(frozen=True)
class Crowd(Adapter):
    """Its weights depend on the other seeds' batch."""

    def sample_weight(self, v):
        return v.r.abs() + (1 if torch._C._functorch.is_batchedtensor(v.r) else 0)


@dataclass(frozen=True)
class Namesake(Adapter):
    """Keys its networks by its class."""

    def group(self, short):
        return f"namesake.{short}"

    def init(self, spec, facts, generator):
        return {"w": {"w": torch.zeros(1)}}


@dataclass(frozen=True)
class Column(Adapter):
    """A weight per row, as a column."""

    def sample_weight(self, v):
        return v.r.abs()[:, None]


@dataclass(frozen=True)
class Vague(Adapter):
    """Reports a number per row."""

    def sample_weight(self, v):
        return 1.0

    def diagnostics(self, v):
        return {"rewards": v.r}


@dataclass(frozen=True)
class Exploding(Adapter):
    """Not finite from step 2 on."""

    def sample_weight(self, v):
        return torch.where(v.step > 1, torch.inf, 1.0)


@dataclass(frozen=True)
class Unprepared(Adapter):
    """Not finite online."""

    def sample_weight(self, v):
        return torch.inf if v.phase == "online" else 1.0


@dataclass(frozen=True)
class Idle(Adapter):
    """Makes a network that a stage steps, from a loss that does not see it."""

    def init(self, spec, facts, generator):
        return {"w": {"w": torch.zeros(1)}}

    def sample_weight(self, v):
        return 1.0

    def stages(self, facts, phase):
        return (AdapterStage("end", Stage("idle", (Update(self.group("w"), lambda p, v: v.r.mean()),))),)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (Anonymous, "does not begin with its name"),
        (Crowd, "ends up elsewhere|learns otherwise"),
        (Namesake, "two of it share a group"),
        (Column, r"'sample_weight' has the shape \[16, 1\], where \[16\] is asked"),
        (Vague, r"'vague/rewards' must be one number, not of the shape \[16\]"),
        (Exploding, "critic/loss|actor/loss"),
        (Unprepared, "online, .*actor/loss"),
        (Idle, "the loss of the group 'idle.w', has no gradient"),
    ],
)
def test_an_adapter_that_breaks_a_law_is_told_so(adapter, words):
    with pytest.raises((AssertionError, StackError), match=words):
        check_adapter(adapter(), SMALL)


# -- ablations --------------------------------------------------------------------------------------------------------


def test_every_subset_by_name():
    whole = wrap(SMALL, ASPC(interval=1), Idle(), Anonymous())
    twins = ablate(whole)
    assert list(twins)[:4] == ["TD3BC", "TD3BC + aspc", "TD3BC + idle", "TD3BC + anonymous"] and len(twins) == 8
    assert twins[whole.name].adapters == whole.adapters and twins["TD3BC"].adapters == ()


def test_subsets_of_one_seed_see_the_same_minibatches():
    data, twins = made_data(), ablate(wrap(SMALL, FixedTradeoff()))
    for twin in twins.values():
        twin.fit(data, steps=4, traced=False, progress=False)
    one, two = (twin.act(data.observations) for twin in twins.values())
    assert (one == two).all()
