"""Multi-layer perceptrons as pure functions over a parameter tree, with optional LayerNorm and ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.keys import as_generator
from rlhive.core.types import Params

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def init_mlp(key: int | Generator, sizes: Sequence[int], *, layer_norm: bool = False) -> Params:
    """Draws the parameters of one MLP.

    Args:
        key: a seed or CPU generator; two calls with equal states give equal parameters.
        sizes: widths from input to output, such as `(21, 256, 256, 18)`.
        layer_norm: whether each hidden layer has a LayerNorm before its activation.

    Returns:
        `{"layer_0": {"weight" [out, in], "bias" [out], ("norm": {"weight", "bias"})}, ...}`, float32, with weights
        and biases uniform in +-1/sqrt(in), as in `torch.nn.Linear`.
    """
    key, layers = as_generator(key), {}
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        bound = 1.0 / math.sqrt(fan_in)
        layer = {
            "weight": _uniform(key, (fan_out, fan_in), bound),
            "bias": _uniform(key, (fan_out,), bound),
        }
        if layer_norm and index < len(sizes) - 2:
            layer["norm"] = init_norm(fan_out)  # type: ignore[assignment]
        layers[f"layer_{index}"] = layer
    return TensorDict(layers, batch_size=[])


def apply_mlp(params: Params, x: Tensor, *, activation: str = "relu") -> Tensor:
    """Applies an MLP, or an ensemble of `N` whose leaves have a leading `[N]`.

    Args:
        params: the tree of `init_mlp`, or several stacked.
        x: `[B, in]`, given to every member of an ensemble, or `[N, B, in]`.
        activation: a name of `ACTIVATIONS`.

    Returns:
        `[B, out]`, or `[N, B, out]` for an ensemble.
    """
    last = params[f"layer_{len(params.keys()) - 1}"]
    return linear(last["weight"], last["bias"], _apply_hidden(params, x, ACTIVATIONS[activation]))


def apply_mlp_columns(params: Params, x: Tensor, *, activation: str = "relu") -> Tensor:
    """As `apply_mlp` of one MLP, transposed: `[out, B]`.

    Loops over few outputs of many rows vectorise if the rows are contiguous in memory. That also keeps a seed's bits
    independent of the number of seeds, since a vectorised exp differs from the scalar one in the last bit.
    """
    last = params[f"layer_{len(params.keys()) - 1}"]
    hidden = _apply_hidden(params, x, ACTIVATIONS[activation])
    if len(x) == 1:  # a product with one column rounds differently for one seed
        return linear(last["weight"], last["bias"], hidden).mT
    return torch.addmm(last["bias"].unsqueeze(-1), last["weight"], hidden.mT)


def _apply_hidden(params: Params, x: Tensor, activate: Callable[[Tensor], Tensor]) -> Tensor:
    for index in range(len(params.keys()) - 1):
        layer = params[f"layer_{index}"]
        x = linear(layer["weight"], layer["bias"], x)
        x = activate(layer_norm(layer["norm"], x) if "norm" in layer.keys() else x)  # noqa: SIM118
    return x


def layer_norm(norm: Params, x: Tensor) -> Tensor:
    """LayerNorm of `x` `[..., B, D]` by `{"weight", "bias"}` `[..., D]`: the same bits alone and under `vmap`."""
    normalized = F.layer_norm(x, x.shape[-1:])
    return torch.addcmul(norm["bias"].unsqueeze(-2), normalized, norm["weight"].unsqueeze(-2))


def linear(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A linear layer, or `N` of them, with the same bits for one seed as for several under `vmap`.

    Args:
        weight: `[out, in]`, or `[N, out, in]`.
        bias: `[out]`, or `[N, out]`.
        x: `[B, in]`, or `[N, B, in]`.

    Returns:
        `[B, out]`, or `[N, B, out]`.
    """
    if weight.dim() == 2 and len(weight) == 1:  # the matrix product would round differently for one seed
        return (x * weight).sum(-1, keepdim=True) + bias
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    members = weight.shape[0]
    if members == 1:  # a product of one matrix rounds differently from a batch of several
        return linear(weight.squeeze(0), bias.squeeze(0), x.expand(1, *x.shape[-2:]).squeeze(0)).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(-2), x.expand(members, *x.shape[-2:]), weight.transpose(-1, -2))


def init_norm(width: int) -> dict[str, Tensor]:
    """A LayerNorm's `{"weight", "bias"}` `[width]`, float32, initialised to have no effect."""
    return {
        "weight": torch.ones(width, dtype=torch.float32),
        "bias": torch.zeros(width, dtype=torch.float32),
    }


def _uniform(key: Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=key)
