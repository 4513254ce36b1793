"""The convolutions of a traced graph: one for each seed, so that a seed has the same bits alone and beside others.

`vmap` merges the convolutions of all seeds into one with groups, with the seeds interleaved in memory. On a CPU, its
kernels round differently from those of one seed, and so do sums over its interleaved output. On a GPU they stay merged,
in float32.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
IMAGES = [1, 3, 4]  # the dimensions of a sum over the images of each seed, [S, B, C, H, W]
ROWS = 16  # of ones in a product: a single row would go to kernels that sum in another order


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """A GPU's convolutions in float32, summed in the same order each time.

    By default they use TF32, with 10 bits of mantissa: after three updates a seed beside others differed by 5e-3 from
    the same seed alone, in float32 by 1e-5.
    """
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.deterministic
    cudnn.conv.fp32_precision, cudnn.deterministic = "ieee", True
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.deterministic = before


def split_convolutions(graph: Graph) -> None:
    """Writes each convolution in groups, and its gradient, as one convolution per group.

    Convolutions with a bias, which `vmap` adds separately, and those of anything but images stay as they are.

    Args:
        graph: of a traced function; changed in place.
    """
    forward, backward = (
        [
            node
            for node in graph.find_nodes(op="call_function", target=target)
            if node.args[bias] is None and len(_shape(node.args[bias - 1])) == 4
        ]
        for target, bias in ((aten.convolution.default, 2), (aten.convolution_backward.default, 3))
    )
    for node in forward:
        _split_forward(graph, node)
    for node in backward:
        _split_backward(graph, node)
    if forward:
        for node in graph.find_nodes(op="call_function", target=aten.view.default):
            node.target = aten.reshape.default  # the viewed tensor now has another memory layout
        for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
            if node.args[1] == IMAGES and len(_shape(node.args[0])) == 5:
                _sum_by_product(graph, node)


def _split_forward(graph: Graph, node: Node) -> None:
    arguments: Any = node.args
    x, weight, *settings, groups = arguments
    with graph.inserting_before(node):
        parts = zip(_parts(graph, x, 1, groups), _parts(graph, weight, 0, groups), strict=True)
        results = [graph.call_function(aten.convolution.default, (*part, *settings, 1)) for part in parts]
        _join(graph, node, results, _shape(node), 1)


def _split_backward(graph: Graph, node: Node) -> None:
    arguments: Any = node.args
    gradient, x, weight, *settings, groups, wanted = arguments
    with graph.inserting_before(node):
        factors = zip((gradient, x, weight), (1, 1, 0), strict=True)
        parts = zip(*(_parts(graph, factor, dim, groups) for factor, dim in factors), strict=True)
        results = [
            graph.call_function(aten.convolution_backward.default, (*part, *settings, 1, wanted))
            for part in parts
        ]
        for item in [item for item in node.users if item.users]:
            which: Any = item.args[1]
            own = [graph.call_function(operator.getitem, (result, which)) for result in results]
            _join(graph, item, own, _shape((x, weight)[which]), (1, 0)[which])


def _sum_by_product(graph: Graph, node: Node) -> None:
    """Writes a sum over each seed's images as a product with ones: Inductor sums in another order for one seed."""
    value: Any = node.args[0]
    example = value.meta["val"]
    seeds, _, channels, *_ = example.shape
    images = example[0, :, 0].numel()
    with graph.inserting_before(node):
        last = graph.call_function(aten.permute.default, (value, [0, *IMAGES, 2]))
        flat = graph.call_function(aten.reshape.default, (last, [seeds, images, channels]))
        ones = graph.call_function(aten.new_ones.default, (value, [seeds, ROWS, images]))
        totals = graph.call_function(aten.bmm.default, (ones, flat))
        total = graph.call_function(aten.select.int, (totals, 1, 0))
        result = graph.call_function(aten.reshape.default, (total, _shape(node)))
    flat.meta["val"] = example.new_empty((seeds, images, channels))
    ones.meta["val"] = example.new_empty((seeds, ROWS, images))
    totals.meta["val"] = example.new_empty((seeds, ROWS, channels))
    node.replace_all_uses_with(result, propagate_meta=True)


def _parts(graph: Graph, value: Node, dim: int, groups: int) -> list[Node]:
    """The parts of images or a weight, each as it would lie in memory alone: channels last, as kernels like it."""
    apart = graph.call_function(aten.reshape.default, (value, _apart(_shape(value), dim, groups)))
    parts = [graph.call_function(aten.select.int, (apart, dim, group)) for group in range(groups)]
    layout: Any = {"memory_format": torch.channels_last}
    return [graph.call_method("contiguous", (part,), layout) for part in parts]


def _join(graph: Graph, node: Node, parts: Sequence[Node], shape: list[int], dim: int) -> None:
    """Replaces `node` by the parts, joined along `dim`; in memory they lie one after another."""
    apart = _apart(shape, dim, len(parts))
    last = [graph.call_function(aten.permute.default, (part, [0, 2, 3, 1])) for part in parts]
    if len(last) == 1:
        stacked = graph.call_function(aten.unsqueeze.default, (last[0], 0))
    else:
        stacked = graph.call_function(aten.stack.default, (last,))
    order = [1, 0, 4, 2, 3] if dim else [0, 1, 4, 2, 3]
    moved = graph.call_function(aten.permute.default, (stacked, order))
    for user in list(node.users):
        if user.target is aten.view.default and user.args[1] == apart:  # as `vmap` separates the seeds
            user.replace_all_uses_with(moved, propagate_meta=True)
    joined = graph.call_function(aten.reshape.default, (moved, shape))
    node.replace_all_uses_with(joined, propagate_meta=True)


def _apart(shape: list[int], dim: int, groups: int) -> list[int]:
    """The shape with a separate dimension for the groups."""
    return [*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :]]


def _shape(node: Node) -> list[int]:
    return list(node.meta["val"].shape)
