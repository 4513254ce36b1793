"""Functional optimizers over parameter trees with the interface of optax: `init` and `update`, without state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.settings import check_range
from rlhive.core.tree import global_norm, map_tree, zeros_like
from rlhive.core.types import Params

Schedule = Callable[[Tensor], Tensor | float]


class GradientTransformation(NamedTuple):
    """`init(params) -> opt_state` and `update(grads, opt_state, params) -> (updates, opt_state)`."""

    init: Callable[[Params], TensorDict]
    update: Callable[[Params, TensorDict, Params], tuple[Params, TensorDict]]


def cosine_schedule(learning_rate: float, decay_updates: int, final_fraction: float = 0.0) -> Schedule:
    """Half a cosine from `learning_rate` to `final_fraction` of it over `decay_updates` updates (SGDR, eq. 5).

    Args:
        learning_rate: at the first update.
        decay_updates: updates until `final_fraction` is reached.
        final_fraction: of the learning rate that is left from then on.

    Raises:
        ValueError: if a value is out of its range.
    """
    _check_learning_rate(learning_rate)
    if not decay_updates >= 1:
        raise ValueError(f"cosine_schedule.decay_updates must be at least 1, got {decay_updates}")
    if not 0.0 <= final_fraction <= 1.0:
        raise ValueError(f"cosine_schedule.final_fraction must be in [0, 1], got {final_fraction}")

    def schedule(count: Tensor) -> Tensor:
        progress = (count.float() / decay_updates).clamp(max=1.0)
        cosine = 0.5 * (1.0 + torch.cos(math.pi * progress))
        return learning_rate * (final_fraction + (1.0 - final_fraction) * cosine)

    return schedule


def _check_learning_rate(learning_rate: float) -> None:
    check_range(
        "learning_rate", learning_rate, lambda value: 0.0 < value < math.inf, "be positive and finite"
    )


def adam(
    learning_rate: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    max_grad_norm: float | None = None,
) -> GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1), after clipping the gradient of each subtree by its own norm.

    Args:
        learning_rate: a number, or a schedule of the count of updates made before.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        max_grad_norm: largest Euclidean norm of the gradient of each top-level subtree ("actor", "critic", ...);
            None does not clip.

    Raises:
        ValueError: if a value is out of its range.
    """
    if not callable(learning_rate):
        _check_learning_rate(learning_rate)
    if not (0.0 <= b1 < 1.0 and 0.0 <= b2 < 1.0 and eps > 0.0):
        raise ValueError(f"adam needs b1 and b2 in [0, 1) and a positive eps, got {b1}, {b2}, {eps}")
    if max_grad_norm is not None and not max_grad_norm > 0.0:
        raise ValueError(f"adam.max_grad_norm must be positive or None, got {max_grad_norm}")

    def init(params: Params) -> TensorDict:
        count = torch.zeros((), dtype=torch.int64, device=params.device)
        return TensorDict({"mu": zeros_like(params), "nu": zeros_like(params), "count": count}, batch_size=[])

    def update(grads: Params, opt_state: TensorDict, params: Params) -> tuple[Params, TensorDict]:
        if max_grad_norm is not None:
            grads = clip_subtrees(grads, max_grad_norm)
        count = opt_state["count"] + 1
        rate = learning_rate(opt_state["count"]) if callable(learning_rate) else learning_rate
        step_size = rate / _bias_correction(b1, count)
        root_correction = _bias_correction(b2, count).sqrt()
        mu = map_tree(lambda m, g: torch.lerp(m, g, 1.0 - b1), opt_state["mu"], grads)
        nu = map_tree(lambda n, g: torch.addcmul(b2 * n, g, g, value=1.0 - b2), opt_state["nu"], grads)

        def step(m: Tensor, n: Tensor) -> Tensor:
            update = -step_size * m / (n.sqrt() / root_correction + eps)
            return update.to(m.dtype)  # for a leaf without dimensions it would be float32

        updates = map_tree(step, mu, nu)
        return updates, TensorDict({"mu": mu, "nu": nu, "count": count}, batch_size=[])

    return GradientTransformation(init, update)


def _bias_correction(decay: float, count: Tensor) -> Tensor:
    if decay == 0.0:  # which has no logarithm
        return torch.ones_like(count, dtype=torch.float32)
    # 1 - decay^count. Inductor recomputes a power for every vector of parameters, but an exp of a scalar only once.
    return (1.0 - torch.exp(count.double() * math.log(decay))).float()


def clip_by_global_norm(grads: Params, max_norm: float) -> Params:
    """Scales the tree so that its Euclidean norm is at most `max_norm`; a smaller one is returned unchanged.

    A norm above 1.8e19, whose square float32 cannot hold, makes the whole tree 0.
    """
    scale = (max_norm / global_norm(grads).clamp(min=1e-12)).clamp(max=1.0)
    return map_tree(lambda grad: grad * scale, grads)


def clip_subtrees(grads: Params, max_norm: float) -> Params:
    """Clips each top-level subtree by its own norm, so that a critic's large gradient does not shrink the actor's."""
    clipped = {}
    for name in grads.keys():  # noqa: SIM118
        alone = clip_by_global_norm(TensorDict({name: grads[name]}, batch_size=[]), max_norm)
        clipped[name] = alone[name]
    return TensorDict(clipped, batch_size=grads.batch_size)


def apply_updates(params: Params, updates: Params) -> Params:
    """`params + updates`, as a new tree."""
    return map_tree(torch.add, params, updates)
