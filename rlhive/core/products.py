"""The matrix products of a traced graph: their memory layout, and the same bits for a seed alone and beside others.

A matrix library splits a product into blocks, depending on its size and the number of threads. Remainders at the edges,
and rows that do not start at a multiple of 16 bytes, go to other kernels, which round differently. The product of a
single seed is split among all threads, those of several seeds are not, so the edges differ. Padding removes the edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
PRODUCTS = {  # the position of the two factors among the arguments
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}
# Measured with MKL on AVX-512: sizes at which a product of one seed differed from the same product among several.
ALIGNMENT = 4  # float32 in 16 bytes
FEW_ROWS = 12  # rows up to which alignment matters, and two threads split what is no multiple of 4
VECTOR = 16  # columns of a block; three threads and more split what is no multiple


def turn_products(graph: Graph) -> None:
    """Writes `(A B)^T` as `B^T A^T`: the gradient of a critic's weights then has the weights' memory layout.

    Reading it transposed would cost the optimizer's loop more time than its arithmetic.
    """
    for node in graph.find_nodes(op="call_function", target=aten.transpose.int):
        if _is_turned(node) and _is_turned(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.eliminate_dead_code()
    for node in graph.find_nodes(op="call_function", target=aten.transpose.int):
        view = node.args[0]
        if not (_is_turned(node) and _is_only_use(view, aten._unsafe_view.default)) or _is_turned_back(node):
            continue
        product = view.args[0]
        if not _is_only_use(product, aten.bmm.default):
            continue
        *leading, rows, columns = view.args[1]
        with graph.inserting_before(node):
            a, b = (graph.call_function(aten.transpose.int, (factor, -2, -1)) for factor in product.args)
            turned = graph.call_function(aten.bmm.default, (b, a))
            for new, old in ((a, product.args[0]), (b, product.args[1]), (turned, product)):
                new.meta["val"] = old.meta["val"].mT
            shaped = graph.call_function(aten._unsafe_view.default, (turned, [*leading, columns, rows]))
        shaped.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(shaped)
    graph.eliminate_dead_code()


def _is_turned(node: Node) -> bool:
    """Whether a node swaps the last two dimensions."""
    if node.target is not aten.transpose.int:
        return False
    dim = node.meta["val"].dim()
    return {axis % dim for axis in node.args[1:]} == {dim - 2, dim - 1}


def _is_turned_back(node: Node) -> bool:
    """Whether a node is only transposed back as part of a stack, like the gradient of a single critic's action."""
    stacked, *others = node.users
    return not others and stacked.target is aten.unsqueeze.default and all(map(_is_turned, stacked.users))


def _is_only_use(node: Node, target: torch._ops.OpOverload) -> bool:
    return node.target is target and len(node.users) == 1


class _Margins(NamedTuple):
    """How many rows, inner elements and columns to add to a product."""

    rows: int
    inner: int
    columns: int


def align_products(graph: Graph, *, num_threads: int) -> None:
    """Pads matrix products with zeros where their bits would depend on the number of seeds.

    The default networks have one such product on two threads, and only with 3 or 5 actions.

    Args:
        graph: of a traced function on the CPU; changed in place.
        num_threads: number of threads that it will run with.
    """
    for target, first in PRODUCTS.items():
        for node in graph.find_nodes(op="call_function", target=target):
            arguments: Any = node.args
            a, b = arguments[first : first + 2]
            rows, inner = a.meta["val"].shape[-2:]
            margins = _margins(rows, inner, b.meta["val"].shape[-1], num_threads)
            if any(margins):
                _widen(graph, node, first, margins)


def _margins(rows: int, inner: int, columns: int, num_threads: int) -> _Margins:
    few = rows < FEW_ROWS
    split = rows > ALIGNMENT and (num_threads > 2 or (few and num_threads == 2))
    more_rows = -rows % ALIGNMENT if split else 0
    more_columns = -columns % VECTOR if columns > VECTOR and num_threads > 2 else 0
    begins = inner * columns if rows == 1 else (rows + more_rows) * inner | inner * columns
    if few and (begins % ALIGNMENT or columns % 2):
        return _Margins(more_rows, -inner % ALIGNMENT, more_columns or -columns % ALIGNMENT)
    return _Margins(more_rows, 0, more_columns)


def _widen(graph: Graph, node: Node, first: int, margins: _Margins) -> None:
    """Replaces a product by one of larger factors, cut to the original size."""
    arguments: Any = node.args
    target: Any = node.target
    *added, a, b = arguments[: first + 2]
    rows, columns = node.meta["val"].shape[-2:]

    def pad(value: Node, down: int, right: int) -> Node:
        if not (down or right):
            return value
        return graph.call_function(aten.constant_pad_nd.default, (value, [0, right, 0, down]))

    with graph.inserting_before(node):
        factors = pad(a, margins.rows, margins.inner), pad(b, margins.inner, margins.columns)
        if added:
            shape = added[0].meta["val"].shape
            down = margins.rows if len(shape) > 1 and shape[-2] == rows > 1 else 0
            right = margins.columns if shape[-1] == columns > 1 else 0
            size = [0, right, 0, down] if len(shape) > 1 else [0, right]
            bias = graph.call_function(aten.constant_pad_nd.default, (added[0], size))
            added = [bias]
        cut = graph.call_function(target, (*added, *factors), node.kwargs)
        cut = graph.call_function(aten.slice.Tensor, (cut, -2, 0, rows))
        cut = graph.call_function(aten.slice.Tensor, (cut, -1, 0, columns))
        cut = graph.call_function(aten.clone.default, (cut,), {"memory_format": torch.contiguous_format})
    cut.meta = node.meta
    node.replace_all_uses_with(cut)
    graph.erase_node(node)
