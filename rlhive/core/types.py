"""Names, shapes and signatures shared by every file of RLHive.

Shape legend of all docstrings: `S` seeds, `E` environments per seed, `B` minibatch, `N` critics, `O` observation,
`A` action, `T` time, `K` actions of a plan, `C` colour channels that a policy sees: 3 * frames of its `PixelSpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from tensordict import TensorDict
from torch import Tensor

# What learns: "actor" and, by algorithm, "critic" [N, ...], "value", "log_alpha", "encoder".
Params: TypeAlias = TensorDict
EnvState: TypeAlias = TensorDict  # normalising constants: {"observation": {"loc", "scale", "count"}}
TrainState: TypeAlias = TensorDict  # {"params", "target_params", "opt_state", "env_state", "step"}
# What a loss reads: "observation" and ("next", "observation") [B, O], normalised; "action" [B, A]; ("next", "reward")
# and ("next", "terminated") [B, 1]; of sums of n rewards "steps_to_next_obs" [B, 1]; of a prioritized replay "_weight"
# [B], the importance of each transition's critic error.
Batch: TypeAlias = TensorDict
Noise: TypeAlias = TensorDict
Metrics: TypeAlias = TensorDict


class LossFn(Protocol):
    """`loss_fn(params, target_params, batch, noise) -> (loss, metrics)`: a scalar, and detached metrics.

    A prioritized replay needs "td_error" `[B]` among them.
    """

    def __call__(
        self, params: Params, target_params: Params, batch: Batch, noise: Noise
    ) -> tuple[Tensor, Metrics]: ...


TrainStep: TypeAlias = Callable[[TrainState, Batch, Noise], tuple[TrainState, Metrics]]
