"""Tracing and compiling pure functions of trees.

`make_fx` records the tensor operations of one call, after vmap, gradient and TensorDict have done their part; what is
left is a plain graph of tensors in and out, which Inductor takes as a whole, once, for one set of shapes. It is given
the graph itself, not by way of `torch.compile`, which would trace it anew: 10 s of Python then, 4 s instead of 9 s
where Inductor's cache on disk already has the kernels; and nothing is left that could compile a second time.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

# Two habits of Inductor would let a seed's bits depend on how many seeds there are. A vectorised exp differs from the
# scalar one in the last bit, and the last few elements of a loop get one or the other. And the threads share the sum
# over a minibatch where it is the outermost loop, as for one seed alone: loops of fewer elements per thread than the
# chunk here, which is more than minibatches have and less than hidden layers, stay with one thread.
INDUCTOR_CONFIG: dict[str, Any] = {"cpp.enable_loop_tail_vec": False, "cpp.min_chunk_size": 16384}

logger = logging.getLogger(__name__)


def trace(fn: Callable[..., Any], *examples: Any, compile: bool = False) -> Callable[..., Any]:
    """A function that repeats the tensor operations of `fn(*examples)`, for trees of the same structure and shapes.

    Uncompiled, its results equal those of `fn` bit for bit; compiled, to rounding. It has no gradient of its own.

    Args:
        fn: a pure function of TensorDicts and tensors that returns one or a tuple of them, without control flow that
            depends on values.
        examples: arguments with the structure, shapes, dtypes and device of all later calls.
        compile: compile the recorded graph here and now: half a minute, or a few seconds where it was done before.

    Returns:
        The function.
    """
    names = [_leaf_names(example) for example in examples]
    out_specs: list[pytree.TreeSpec] = []

    def flat_fn(*flat: Tensor) -> list[Tensor]:
        values = iter(flat)
        args = [
            _fill(example, values) if isinstance(example, TensorDict) else next(values)
            for example in examples
        ]
        results, out_spec = pytree.tree_flatten(fn(*args))
        out_specs.append(out_spec)
        return results

    leaves = _leaves(names, examples)
    graph = make_fx(flat_fn)(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    run: Callable[..., Any] = _compile(graph, leaves) if compile else graph

    @torch.no_grad()
    def traced(*args: Any) -> Any:
        return pytree.tree_unflatten(run(*_leaves(names, args)), out_specs[0])

    return traced


def _compile(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    # Without a GPU, this module warns at the first compilation that it found none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with torch.no_grad():
        return torch._inductor.standalone_compile(
            graph,
            list(examples),
            dynamic_shapes="from_example_inputs",
            options={"config_patches": INDUCTOR_CONFIG},
        )


def _leaf_names(tree: Any) -> list[Any] | None:
    """Names of the leaves of a TensorDict; None for a tensor."""
    return list(tree.keys(include_nested=True, leaves_only=True)) if isinstance(tree, TensorDict) else None


def _leaves(names: list[list[Any] | None], trees: Sequence[Any]) -> list[Tensor]:
    leaves: list[Tensor] = []
    for of_tree, tree in zip(names, trees, strict=True):
        leaves += [tree] if of_tree is None else [tree[name] for name in of_tree]
    return leaves


def _fill(example: TensorDict, values: Iterator[Tensor]) -> TensorDict:
    """A tree with the keys of `example` in their order, subtrees without leaves included, and the next values."""
    tree = {
        key: _fill(value, values) if isinstance(value, TensorDict) else next(values)
        for key, value in example.items()
    }
    return TensorDict(tree, example.batch_size)


def traced_at_first_call(fn: Callable[..., Any], *, compile: bool = False) -> Callable[..., Any]:
    """`trace(fn, *args)` at the first call with each size of the arguments' leading `[S]`; arguments as in `trace`.

    Compiling is logged, with its time.
    """
    traced: dict[int, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        num_seeds = args[0].shape[0]
        if num_seeds not in traced:
            started = time.monotonic()
            if compile:
                logger.info("compiling the update of %d seed(s), half a minute at the first time", num_seeds)
            traced[num_seeds] = trace(fn, *args, compile=compile)
            if compile:
                logger.info("compiled in %.0f s", time.monotonic() - started)
        return traced[num_seeds](*args)

    return call


def has_compiler() -> bool:
    """Whether there is the C++ compiler that `torch.compile` needs for the CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++"))
