"""Running mean and standard deviation of observations, as a pure tree and pure functions."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

SCALE_MIN = 1e-3
CLIP = 10.0


def init_normalizer(observation_dim: int) -> TensorDict:
    """`{"loc" [O], "scale" [O], "count" []}`, float32, before any observation: loc 0, scale 1, count 0.

    With it, `normalize` only clips.
    """
    return TensorDict(
        {
            "loc": torch.zeros(observation_dim, dtype=torch.float32),
            "scale": torch.ones(observation_dim, dtype=torch.float32),
            "count": torch.zeros((), dtype=torch.float32),
        },
        batch_size=[],
    )


def update_normalizer(normalizer: TensorDict, observation: Tensor) -> TensorDict:
    """Adds a batch of raw observations to the running statistics (Chan 1982, equation 2.1b).

    Args:
        normalizer: `{"loc" [..., O], "scale" [..., O] (standard deviation of the population), "count" [...]}`. Use
            float64 for many updates: in float32, new observations soon change a mean that is large relative to its
            deviation by less than its last digit, and are lost.
        observation: raw observations `[..., E, O]` of the same dtype; leading dimensions are seeds.

    Returns:
        The new statistics. The deviation within the first batch counts. After 2**24 observations in float32, or 2**53
        in float64, the mean forgets exponentially, over about that many observations.
    """
    fresh = observation.shape[-2]
    # Beyond 2**24 a float32 cannot count up by one, and the weights of old and new would no longer sum to one.
    most = 2.0 / torch.finfo(normalizer["count"].dtype).eps
    seen = normalizer["count"].clamp(max=most - fresh).unsqueeze(-1)
    total = seen + fresh
    mean = observation.mean(-2)
    delta = mean - normalizer["loc"]
    squares = (
        seen * normalizer["scale"].square()
        + (observation - mean.unsqueeze(-2)).square().sum(-2)
        + delta.square() * seen * fresh / total
    )
    return TensorDict(
        {
            "loc": normalizer["loc"] + delta * fresh / total,
            "scale": (squares / total).sqrt(),
            "count": total.squeeze(-1),
        },
        batch_size=normalizer.batch_size,
    )


def normalize(normalizer: TensorDict, observation: Tensor) -> Tensor:
    """`(observation - loc) / scale`, clipped to +-10; a scale under 0.001 (a constant entry) counts as 0.001.

    Args:
        normalizer: `{"loc" [O], "scale" [O], ...}`.
        observation: raw observations `[..., O]`.
    """
    scaled = (observation - normalizer["loc"]) / normalizer["scale"].clamp(min=SCALE_MIN)
    return scaled.clamp(-CLIP, CLIP)
