"""Networks as pure functions of dicts of tensors: ours, and anybody's Modules (`from_modules`)."""

from adaptive_constraints.networks.diffusion import (
    VariancePreserving,
    denoise,
    init_noise_network,
    noise_error,
    predict_noise,
)
from adaptive_constraints.networks.dynamics import dynamics_loss, first_members, init_dynamics, predict_transition
from adaptive_constraints.networks.losses import expectile_loss
from adaptive_constraints.networks.mlp import (
    Norm,
    Precision,
    dropout_mask,
    init_mlp,
    linear,
    mlp,
    orthogonal,
    product_precision,
    small_output,
    torch_default,
    uniform,
    xavier,
)
from adaptive_constraints.networks.modules import Network, Networks, from_modules
from adaptive_constraints.networks.policies import TanhGaussian
from adaptive_constraints.networks.vae import Posterior, decode_action, encode_action, init_action_vae, reconstruct

__all__ = [
    "Network",
    "Networks",
    "Norm",
    "Posterior",
    "Precision",
    "TanhGaussian",
    "VariancePreserving",
    "decode_action",
    "denoise",
    "dropout_mask",
    "dynamics_loss",
    "encode_action",
    "expectile_loss",
    "first_members",
    "from_modules",
    "init_action_vae",
    "init_dynamics",
    "init_mlp",
    "init_noise_network",
    "linear",
    "mlp",
    "noise_error",
    "orthogonal",
    "predict_noise",
    "predict_transition",
    "product_precision",
    "reconstruct",
    "small_output",
    "torch_default",
    "uniform",
    "xavier",
]
