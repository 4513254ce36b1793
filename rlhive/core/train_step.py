"""The train state, one tree, and the pure step that advances it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad_and_value

from rlhive.core.normalizer import init_normalizer, normalize
from rlhive.core.optim import GradientTransformation, apply_updates
from rlhive.core.settings import check_range
from rlhive.core.tree import leaves, polyak
from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params, TrainState, TrainStep


def init_state(
    params: Params,
    opt: GradientTransformation,
    *,
    observation_dim: int,
    target_keys: Sequence[str],
) -> TrainState:
    """The state before the first update of one seed: `{"params", "target_params", "opt_state", "env_state", "step"}`.

    Args:
        params: freshly drawn parameters.
        opt: the optimizer.
        observation_dim: O.
        target_keys: subtrees of `params` that have a target network.

    Raises:
        ValueError: the parameters are not a TensorDict, or lack one of these subtrees.
    """
    is_tree = isinstance(params, TensorDict)
    keys = {*params.keys()} if is_tree else set()
    if not is_tree or isinstance(target_keys, str) or not keys.issuperset(target_keys):
        raise ValueError(
            f"init_state takes params as a TensorDict and target_keys as a tuple of its keys {sorted(keys)}, got "
            f"{type(params).__name__} and {target_keys!r}"
        )
    return TensorDict(
        {
            "params": params,
            "target_params": TensorDict({key: params[key].clone() for key in target_keys}, batch_size=[]),
            "opt_state": opt.init(params),
            "env_state": {"observation": init_normalizer(observation_dim)},
            "step": torch.zeros((), dtype=torch.int64),
        },
        batch_size=[],
    )


def make_train_step(
    loss_fn: LossFn, opt: GradientTransformation, *, tau: float | Tensor = 0.005
) -> TrainStep:
    """Makes `train_step(state, batch, noise) -> (state, metrics)`: gradient, optimizer and target update of one seed.

    Args:
        loss_fn: a loss of `rlhive.losses_fn`.
        opt: the optimizer.
        tau: fraction of the new parameters in the target's update, in (0, 1].

    Returns:
        The step; its `batch` holds raw observations, which are normalised here, once, by `state["env_state"]`. To the
        loss's metrics it adds "loss" and "finite": whether the loss, the new parameters and the optimizer's state are.

    Raises:
        ValueError: tau is out of its range, or an argument has another type; from the step: metrics of another form.
    """
    if not callable(loss_fn) or not isinstance(opt, GradientTransformation):
        raise ValueError(
            "make_train_step takes a loss function and a GradientTransformation such as adam(1e-3), got "
            f"{type(loss_fn).__name__} and {type(opt).__name__}"
        )
    check_range("make_train_step.tau", tau, lambda value: 0.0 < value <= 1.0, "be in (0, 1]")

    flat_loss_fn = _with_flat_metrics(loss_fn)

    def train_step(state: TrainState, batch: Batch, noise: Noise) -> tuple[TrainState, Metrics]:
        params, target_params = state["params"], state["target_params"]
        batch = normalize_batch(state["env_state"], batch)
        grads, (loss, metrics) = grad_and_value(flat_loss_fn, has_aux=True)(
            params, target_params, batch, noise
        )
        updates, opt_state = opt.update(grads, state["opt_state"], params)
        params = apply_updates(params, updates)
        new_state = TensorDict(
            {
                "params": params,
                "target_params": polyak(target_params, params, tau),
                "opt_state": opt_state,
                "env_state": state["env_state"],
                "step": state["step"] + 1,
            },
            batch_size=[],
        )
        # The optimizer's state too: with an infinite second moment Adam never moves a parameter again.
        sums = [leaf.sum() for leaf in (*leaves(params), *leaves(opt_state))]
        finite = torch.stack([loss.detach(), *sums]).isfinite().all()
        named = metrics | {"loss": loss.detach(), "finite": finite}
        return new_state, TensorDict(named, batch_size=[])

    return train_step


def _with_flat_metrics(loss_fn: LossFn) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    def flat_loss_fn(*arguments: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = loss_fn(*arguments)
        return loss, _flat(metrics)  # here, since torch.func's error for other values is unclear

    return flat_loss_fn


def _flat(metrics: Any) -> dict[str, Tensor]:
    """The metrics of a loss by name, if that is what they are."""
    named = isinstance(metrics, Mapping | TensorDict)
    values = dict(metrics.items()) if named else {}
    if not named or not all(isinstance(value, Tensor) for value in values.values()):
        got = {name: type(value).__name__ for name, value in values.items()} or type(metrics).__name__
        raise ValueError(
            "a loss returns (loss, metrics), metrics a dict or TensorDict of tensors by name, none of them nested; "
            f"got {got}"
        )
    return values


def normalize_batch(env_state: TensorDict, batch: Batch) -> Batch:
    """A copy of the batch with "observation" and ("next", "observation") normalised; nothing else is touched."""
    normalizer = env_state["observation"]
    following = batch["next"].copy()
    following["observation"] = normalize(normalizer, following["observation"])
    copy = batch.copy()
    copy["observation"] = normalize(normalizer, batch["observation"])
    copy["next"] = following
    return copy
