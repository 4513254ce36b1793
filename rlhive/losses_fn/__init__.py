"""Loss functions, pure maths over parameter trees, and the table of what each algorithm is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Generator

from rlhive.core.types import LossFn, Noise
from rlhive.losses_fn.sac import draw_sac_noise, make_sac_loss
from rlhive.policy_fn.actor import ActorCritic, actor_critic

__all__ = ["ALGORITHMS", "POLICY_KEYS", "Algorithm", "draw_sac_noise", "make_sac_loss"]


class Algorithm(NamedTuple):
    """What an algorithm is made of.

    Attributes:
        make_network: `make_network(env_spec, ...) -> network`.
        make_loss: `make_loss(network, ...) -> loss_fn`.
        draw_noise: `draw_noise(generator, network, batch_size) -> noise` for one call of the loss.
        target_keys: subtrees of the parameters that have a target network.
        policy_keys: subtrees of the parameters that the policy reads; "encoder" is there where one learns.
    """

    make_network: Callable[..., ActorCritic]
    make_loss: Callable[..., LossFn]
    draw_noise: Callable[[Generator, Any, int], Noise]
    target_keys: tuple[str, ...]
    policy_keys: tuple[str, ...]


ALGORITHMS: dict[str, Algorithm] = {
    "sac": Algorithm(
        make_network=actor_critic,
        make_loss=make_sac_loss,
        draw_noise=draw_sac_noise,
        target_keys=("critic",),
        policy_keys=("actor", "encoder"),
    ),
}

# From loss to policy: a policy's tree is `params.select(*POLICY_KEYS[algorithm], strict=False)`, and nothing else.
POLICY_KEYS = {name: algorithm.policy_keys for name, algorithm in ALGORITHMS.items()}
