"""Kinds of problems that this library has no part for, in words for messages; docs/design.md says more of each."""

from __future__ import annotations

_MORE = "docs/design.md, 'What stays outside'"
PIXELS = f"observations are vectors, and images stay outside ({_MORE}); encode them to vectors first"
"""Where observations may be images."""
DISCRETE = (
    f"actions are vectors of real numbers in a box, and discrete ones stay outside ({_MORE}): a finite set of actions "
    "needs methods that sum over it"
)
"""Where actions are, or may be, numbers of choices."""
_SEQUENCES = f"sequence models have no Bellman update that adapters could wrap, and stay outside ({_MORE})"
_MODELS = f"rollouts of a model as data stay outside ({_MORE}): the data would grow while training offline"
_REASONS = {
    **dict.fromkeys(
        ("decisiontransformer", "dt", "trajectorytransformer", "tt", "diffuser", "decisiondiffuser"), _SEQUENCES
    ),
    **dict.fromkeys(("onlinedecisiontransformer", "odt", "elasticdecisiontransformer"), _SEQUENCES),
    **dict.fromkeys(("mopo", "morel", "combo", "romi", "mobile", "rambo"), _MODELS),
    **dict.fromkeys(("drqbc", "drq", "drqv2", "vd4rl"), PIXELS),
    **dict.fromkeys(("discretecql", "discretebcq", "dqn", "ddqn", "doubledqn", "qrdqn", "c51", "rainbow"), DISCRETE),
    **dict.fromkeys(("discretesac", "discreteiql", "discretebc", "rem", "nfq"), DISCRETE),
    **dict.fromkeys(("qmix", "maddpg", "mappo", "icq", "omar"), f"several agents stay outside ({_MORE})"),
}
"""Reasons by the names of methods, in lower case and without marks."""


def why_outside(name: str) -> str:
    """The reason why a method of this name is not here; "" for one that the guide to design does not rule out.

    >>> from adaptive_constraints.support.outside import why_outside
    >>> why_outside("DecisionTransformer").partition(",")[0]
    'sequence models have no Bellman update that adapters could wrap'
    >>> why_outside("TD3")
    ''
    """
    return _REASONS.get("".join(letter for letter in name.lower() if letter.isalnum()), "")


__all__ = ["DISCRETE", "PIXELS", "why_outside"]
