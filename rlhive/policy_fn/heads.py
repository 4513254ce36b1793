"""The action distributions of cloned and offline policies, as pure functions of the last layer's output.

Every output but the mixture's starts with the mean before the tanh, `[..., A]`; its mode is `mode_of_first`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlhive.policy_fn.actor import (
    LOG_SCALE_MAX,
    log_density,
    scale_of,
    tanh_normal_log_prob,
    tanh_normal_mode,
    tanh_normal_sample,
)

MODES = 5
_WEIGHT_MIN = 1e-12  # rounding may choose a mode of weight 0
_LOG_SCALE_MIN = -5.0  # of normals without tanh: else the density of copying an action exactly is unbounded


class Head(NamedTuple):
    """A kind of distribution over actions in `[low, high]`; `out` is the last layer's `[..., width(A)]`.

    Attributes:
        width: `width(A)`, the size of `out`.
        sample: `sample(out, noise, low, high) -> (action [..., A], log-probability [...])`, for standard normal noise
            `[..., A]`; if the action is clipped to its limits, that of the unclipped one.
        mode: `mode(out, low, high) -> action [..., A]`, the deterministic one.
        log_prob: `log_prob(out, action, low, high) -> [...]`; None where there is no density.
    """

    width: Callable[[int], int]
    sample: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    mode: Callable[[Tensor, Tensor, Tensor], Tensor]
    log_prob: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None


def normal_log_prob(action: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density `[...]` of independent normals at `action` `[..., A]`."""
    return log_density((action - loc) * torch.exp(-log_scale), log_scale).sum(-1)


def _deterministic_sample(out: Tensor, noise: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return tanh_normal_mode(out, low, high), torch.zeros_like(out[..., 0])


def _normal(out: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A mean within the limits, and the logarithm of the standard deviation."""
    loc, log_scale = out.chunk(2, dim=-1)
    return tanh_normal_mode(loc, low, high), log_scale.clamp(_LOG_SCALE_MIN, LOG_SCALE_MAX)


def _normal_sample(out: Tensor, noise: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    loc, log_scale = _normal(out, low, high)
    action = loc + log_scale.exp() * noise
    return torch.clamp(action, low, high), normal_log_prob(action, loc, log_scale)


def mode_of_first(out: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The deterministic action `[..., A]` of a head whose first A numbers are the mean before the tanh."""
    return tanh_normal_mode(out[..., : low.shape[-1]], low, high)


def _tanh_normal(out: Tensor) -> tuple[Tensor, Tensor]:
    loc, log_scale = out.chunk(2, dim=-1)
    return loc, scale_of(log_scale)


def _mixture(out: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights `[..., MODES]`, means and log-deviations `[..., MODES, A]`."""
    logits, rest = out[..., :MODES], out[..., MODES:]
    loc, log_scale = _normal(rest.unflatten(-1, (MODES, rest.shape[-1] // MODES)), low, high)
    return torch.log_softmax(logits, dim=-1), loc, log_scale


def _mixture_log_prob(out: Tensor, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    log_weight, loc, log_scale = _mixture(out, low, high)
    return torch.logsumexp(log_weight + normal_log_prob(action.unsqueeze(-2), loc, log_scale), dim=-1)


def _mixture_mode(out: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The mean of the mode with the largest weight."""
    log_weight, loc, _ = _mixture(out, low, high)
    return _choose(loc, log_weight.argmax(-1))


def _mixture_sample(out: Tensor, noise: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The first action's noise also chooses the mode; rescaled within that mode's share, it is uniform again."""
    log_weight, loc, log_scale = _mixture(out, low, high)
    weight = log_weight.exp()
    ends = weight.cumsum(-1)
    uniform = 0.5 * (1.0 + torch.erf(noise[..., :1] / math.sqrt(2.0)))
    chosen = (uniform >= ends[..., :-1]).sum(-1)
    share = weight.gather(-1, chosen.unsqueeze(-1)).clamp(min=_WEIGHT_MIN)
    left = (uniform - (ends.gather(-1, chosen.unsqueeze(-1)) - share)) / share
    first = math.sqrt(2.0) * torch.erfinv((2.0 * left - 1.0).clamp(-1.0 + 1e-6, 1.0 - 1e-6))
    own_noise = torch.cat([first, noise[..., 1:]], dim=-1)
    action = _choose(loc, chosen) + _choose(log_scale, chosen).exp() * own_noise
    return torch.clamp(action, low, high), _mixture_log_prob(out, action, low, high)


def _choose(values: Tensor, mode: Tensor) -> Tensor:
    """`values[..., mode, :]`, of `[..., MODES, A]`."""
    index = mode[..., None, None].expand(*values.shape[:-2], 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


HEADS: dict[str, Head] = {
    "deterministic": Head(lambda size: size, _deterministic_sample, mode_of_first, None),
    "gaussian": Head(
        lambda size: 2 * size,
        _normal_sample,
        mode_of_first,
        lambda out, action, low, high: normal_log_prob(action, *_normal(out, low, high)),
    ),
    "tanh_gaussian": Head(
        lambda size: 2 * size,
        lambda out, noise, low, high: tanh_normal_sample(*_tanh_normal(out), noise, low, high),
        mode_of_first,
        lambda out, action, low, high: tanh_normal_log_prob(action, *_tanh_normal(out), low, high),
    ),
    "mixture": Head(lambda size: MODES * (1 + 2 * size), _mixture_sample, _mixture_mode, _mixture_log_prob),
}


def heads_with_density() -> list[str]:
    """The names of the heads in `HEADS` that have log-probabilities."""
    return [name for name, head in HEADS.items() if head.log_prob]
