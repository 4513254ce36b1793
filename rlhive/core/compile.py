"""Tracing and compiling pure functions of trees.

`make_fx` records the tensor operations of one call, after vmap, gradient and TensorDict have done their part, on
shapes alone; what is left is a plain graph of tensors in and out, which Inductor takes as a whole, once. It is given
the graph itself, not by way of `torch.compile`, which would trace it anew: 10 s of Python then, 4 s instead of 9 s
where Inductor's cache on disk already has the kernels; and nothing is left that could compile a second time.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from rlhive.core.capture import capture
from rlhive.core.convolutions import exact_convolutions, split_convolutions
from rlhive.core.interrupt import shield_children
from rlhive.core.products import align_products, turn_products

# Three habits of Inductor on a CPU would let a seed's bits depend on how many seeds there are. A vectorised exp differs
# from the scalar one in the last bit, and the last few elements of a loop get one or the other. The threads share the
# sum over a minibatch where it is the outermost loop, as for one seed alone: loops of fewer elements per thread than
# the chunk here, which is more than minibatches have and less than hidden layers, stay with one thread. And loops that
# read the same numbers become one, in the order of the first, from 10 bytes on, which three seeds have in a number of
# each and one seed has not: here from so many bytes of each seed.
CPU_CONFIG: dict[str, Any] = {"cpp.enable_loop_tail_vec": False, "cpp.min_chunk_size": 16384}
SHARED_BYTES_PER_SEED = 1024
# On a GPU it would choose among kernels that round differently by their time: compiled anew, a run had other bits.
GPU_CONFIG: dict[str, Any] = {"deterministic": True}

logger = logging.getLogger(__name__)
# `make_fx` and Inductor change what all threads share while they work.
_TRACING_LOCK = threading.RLock()


def _renew_lock() -> None:
    global _TRACING_LOCK
    _TRACING_LOCK = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # whose threads do not release the one that it copies


def trace(fn: Callable[..., Any], *examples: Any, compile: bool = False) -> Callable[..., Any]:
    """A function that repeats the tensor operations of `fn(*examples)`, for trees of the same structure and shapes.

    Uncompiled, its results equal those of `fn` bit for bit on a CPU, except where `align_products` pads a matrix
    product or `split_convolutions` splits a convolution; compiled, they are equal to rounding. Compiled on a GPU it is
    one CUDA graph. It cannot be differentiated.

    Args:
        fn: a pure function of TensorDicts and tensors that returns one or a tuple of them, without control flow that
            depends on values.
        examples: arguments with the structure, shapes, dtypes and device of all later calls; to be compiled, with a
            leading `[S]`.
        compile: compile the recorded graph here and now: half a minute, or a few seconds where it was done before.

    Returns:
        The function.
    """
    specs = [_spec_of(example) for example in examples]
    out_specs: list[_Spec] = []  # one, or those of a tuple

    def flat_fn(*flat: Tensor) -> list[Tensor]:
        values = iter(flat)
        results = fn(*(_fill(spec, values) for spec in specs))
        results = results if isinstance(results, tuple) else (results,)
        out_specs[:] = [_spec_of(result) for result in results]
        return _leaves(out_specs, results)

    leaves = _leaves(specs, examples)
    on_gpu = all(leaf.is_cuda for leaf in leaves)
    graph, constants = _graph_of(flat_fn, leaves, on_gpu=on_gpu, compile=compile)
    arguments = [*leaves, *constants]
    run: Callable[..., Any] = _compile(graph, arguments) if compile else graph
    if on_gpu:
        run = exact_convolutions()(run)
        run = capture(run, arguments) if compile else run

    @torch.no_grad()
    def traced(*args: Any) -> Any:
        values = iter(run(*_leaves(specs, args), *constants))
        results = tuple(_fill(spec, values) for spec in out_specs)
        return results if len(results) > 1 else results[0]

    return traced


def _graph_of(
    flat_fn: Callable[..., list[Tensor]], leaves: Sequence[Tensor], *, on_gpu: bool, compile: bool
) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The graph of `flat_fn(*leaves)`, rewritten for its device, and the constants that it takes after the leaves."""
    # On tensors without data: with eight seeds' own, all that lives until the gradient is there took 120 MB.
    graph = make_fx(flat_fn, tracing_mode="fake")(*leaves)
    if compile:
        turn_products(graph.graph)
    constants = lift_constants(graph, leaves[0].device) if on_gpu else []
    if not on_gpu:
        split_convolutions(graph.graph)
        align_products(graph.graph, num_threads=torch.get_num_threads())
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, constants


def lift_constants(graph: torch.fx.GraphModule, device: torch.device) -> list[Tensor]:
    """Makes further arguments of the constants of a traced graph, such as the limits of the actions.

    Left in it, they are copied from the host at each call; and a CUDA graph remembers where they were when it was
    captured, which by then is another's memory.

    Args:
        graph: changed in place, not recompiled.
        device: where they are to be.

    Returns:
        The constants, in the order of the new arguments.
    """
    constants = []
    *_, last = graph.graph.find_nodes(op="placeholder")
    for node in graph.graph.find_nodes(op="get_attr"):
        constants.append(getattr(graph, node.target).to(device))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{len(constants)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    return constants


def prepare_compiler() -> None:
    """Does what is to be done once before compiling: 2 s of imports."""
    _expect_no_gpu()
    with shield_children():  # from the process that compiles for a GPU, which it starts
        import torch._inductor.compile_fx  # noqa: F401

    _trust_vector_instructions()


def _trust_vector_instructions() -> None:
    """Spares Inductor 7 s of trying each set of vector instructions, where the C++ compiler has heard of all of them.

    It would compile and load a program for each, to find compilers that do not know the processor and builds of torch
    older than AVX-512. Here the compiler is asked about its flags; where it says no, Inductor tries as ever.
    """
    from torch._inductor.config import cpp
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.cpu_vec_isa import supported_vec_isa_list, x86_isa_checker

    here = set(x86_isa_checker())
    flags = [isa.build_arch_flags() for isa in supported_vec_isa_list if set(str(isa).split()) <= here]
    if cpp.vec_isa_ok is None and flags:
        command = [get_cpp_compiler(), *" ".join(flags).split(), "-fsyntax-only", "-x", "c++", os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            cpp.vec_isa_ok = True


def _expect_no_gpu() -> None:
    """Silences the module that warns, when the compiler is first used, that it found no GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _compile(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    _expect_no_gpu()
    config = GPU_CONFIG
    if examples[0].is_cpu:
        num_seeds = examples[0].shape[:1].numel()
        config = CPU_CONFIG | {"score_fusion_memory_threshold": num_seeds * SHARED_BYTES_PER_SEED}
    with torch.no_grad(), shield_children(), warnings.catch_warnings():
        # Its matrix products would have 10 bits of mantissa; who wants that sets torch's precision.
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        return torch._inductor.standalone_compile(
            graph,
            list(examples),
            dynamic_shapes="from_example_inputs",
            options={"config_patches": config},
        )


class _Tree(NamedTuple):
    """What a TensorDict is without its tensors: a tree, or None for a tensor, under each key."""

    children: dict[str, _Tree | None]
    batch_size: torch.Size


_Spec: TypeAlias = _Tree | None


def _spec_of(value: TensorDict | Tensor) -> _Spec:
    if not isinstance(value, TensorDict):
        return None
    return _Tree({key: _spec_of(child) for key, child in value.items()}, value.batch_size)


def _leaves(specs: Sequence[_Spec], values: Sequence[TensorDict | Tensor]) -> list[Tensor]:
    """The tensors of the values, in the order of the specs' keys."""
    leaves: list[Tensor] = []
    for spec, value in zip(specs, values, strict=True):
        _append_leaves(spec, value, leaves)
    return leaves


def _append_leaves(spec: _Spec, value: Any, leaves: list[Tensor]) -> None:
    if spec is None:
        leaves.append(value)
        return
    entries = dict(value.items())  # 74 leaves in 30 us; by value[key] 160
    for key, child in spec.children.items():
        _append_leaves(child, entries[key], leaves)


def _fill(spec: _Spec, values: Iterator[Tensor]) -> Any:
    """The inverse of `_leaves` for one spec: the next tensors in its tree, subtrees without any included."""
    if spec is None:
        return next(values)
    tree = {key: _fill(child, values) for key, child in spec.children.items()}
    # Without checks, which cannot fail here: 55 us for a train state, by torch's pytree 210.
    return TensorDict._new_unsafe(tree, batch_size=spec.batch_size)


def traced_at_first_call(
    fn: Callable[..., Any], *, compile: bool = False, name: str = "a function"
) -> Callable[..., Any]:
    """`trace(fn, *args)` at the first call with each size of the arguments' leading `[S]`; arguments as in `trace`.

    Compiled, the function of the last size alone is kept. Compiling is logged, with its time and the name.
    """
    traced: dict[int, Callable[..., Any]] = {}

    def trace_now(num_seeds: int, args: Sequence[Any]) -> Callable[..., Any]:
        with _TRACING_LOCK:
            if num_seeds in traced:  # by another thread meanwhile
                return traced[num_seeds]
            if compile:
                traced.clear()  # seeds leave and do not come back, and on a GPU each graph has memory of its own
                logger.info("compiling %s of %d seed(s), up to half a minute at first", name, num_seeds)
            started = time.monotonic()
            run = traced[num_seeds] = trace(fn, *args, compile=compile)
            if compile:
                logger.info("compiled in %.0f s", time.monotonic() - started)
            return run

    def call(*args: Any) -> Any:
        num_seeds = args[0].shape[0]
        run = traced.get(num_seeds) or trace_now(num_seeds, args)
        return run(*args)

    return call
