"""Loss functions, pure maths over parameter trees, and the noise that each of them needs."""

from rlhive.losses_fn.bc import make_bc_loss
from rlhive.losses_fn.common import draw_no_noise
from rlhive.losses_fn.iql import make_iql_loss
from rlhive.losses_fn.sac import draw_sac_noise, make_sac_loss
from rlhive.losses_fn.td3_bc import draw_td3_bc_noise, make_td3_bc_loss

__all__ = [
    "draw_no_noise",
    "draw_sac_noise",
    "draw_td3_bc_noise",
    "make_bc_loss",
    "make_iql_loss",
    "make_sac_loss",
    "make_td3_bc_loss",
]
