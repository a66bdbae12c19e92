"""Networks as pure functions of dicts of tensors."""

from adaptive_constraints.networks.mlp import init_mlp, linear, mlp, torch_default, uniform

__all__ = ["init_mlp", "linear", "mlp", "torch_default", "uniform"]
