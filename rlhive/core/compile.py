"""Tracing and compiling pure functions of trees.

`make_fx` records the tensor operations of one call on shapes alone, after vmap, gradients and TensorDict have been
resolved. The result is a plain graph from tensors to tensors, which Inductor compiles as a whole, once. Inductor gets
the graph directly: `torch.compile` would trace it again, which takes 10 s of Python (with the kernels in Inductor's
cache, 9 s instead of 4 s), and might compile a second time.
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

# With Inductor's defaults on a CPU, a seed's bits would depend on how many seeds there are, for three reasons:
# - A vectorised exp differs from the scalar one in the last bit, and the last elements of a loop may get either.
# - Threads split the sum over a minibatch if it is the outermost loop, as it is for one seed. Loops with fewer elements
#   per thread than this chunk stay on one thread; it is larger than minibatches and smaller than hidden layers.
# - Loops that read the same data are fused, in the order of the first, if they share at least 10 bytes. Three seeds
#   with one number each share that much, one seed does not; so the threshold here is in bytes per seed.
CPU_CONFIG: dict[str, Any] = {"cpp.enable_loop_tail_vec": False, "cpp.min_chunk_size": 16384}
SHARED_BYTES_PER_SEED = 1024
# On a GPU Inductor would pick the fastest of several kernels that round differently, so recompiling changed the bits.
GPU_CONFIG: dict[str, Any] = {"deterministic": True}

logger = logging.getLogger(__name__)
# `make_fx` and Inductor change state that all threads share.
_TRACING_LOCK = threading.RLock()


def _renew_lock() -> None:
    global _TRACING_LOCK
    _TRACING_LOCK = threading.RLock()


# A forked child copies a held lock, but not the thread that would release it.
os.register_at_fork(after_in_child=_renew_lock)


def trace(fn: Callable[..., Any], *examples: Any, compile: bool = False) -> Callable[..., Any]:
    """A function that repeats the tensor operations of `fn(*examples)`, for trees of the same structure and shapes.

    Uncompiled, its results equal those of `fn` bit for bit on a CPU, except where `align_products` pads a matrix
    product or `split_convolutions` splits a convolution; compiled, they are equal to rounding. Compiled on a GPU it is
    one CUDA graph. It cannot be differentiated.

    Args:
        fn: a pure function of TensorDicts and tensors that returns one of them or a tuple, without control flow that
            depends on values.
        examples: arguments with the structure, shapes, dtypes and device of all later calls; with a leading `[S]` if
            `compile`.
        compile: compile the recorded graph now, which takes half a minute, or a few seconds if it was compiled before.

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
    # On tensors without data: real ones of eight seeds took 120 MB of intermediate results.
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
    """Turns the constants of a traced graph, such as the action limits, into further arguments.

    Otherwise they are copied from the host at each call, and a CUDA graph would keep reading the host address they had
    when it was captured, after that memory has been reused.

    Args:
        graph: changed in place, not recompiled.
        device: the device that the constants are moved to.

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
    """Does the one-time preparations for compiling: 2 s of imports."""
    _expect_no_gpu()
    with shield_children():  # the import starts a process that compiles for GPUs
        import torch._inductor.compile_fx  # noqa: F401

    _trust_vector_instructions()


def _trust_vector_instructions() -> None:
    """Saves Inductor 7 s of trying each set of vector instructions, if the C++ compiler knows all of them.

    Inductor would compile and load a program for each, in case the compiler does not know the processor or torch was
    built without AVX-512. Here the compiler only has to accept the flags; if it does not, Inductor tries as usual.
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
    """Silences the module that warns at the first use of the compiler that it found no GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _compile(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    _expect_no_gpu()
    config = GPU_CONFIG
    if examples[0].is_cpu:
        num_seeds = examples[0].shape[:1].numel()
        config = CPU_CONFIG | {"score_fusion_memory_threshold": num_seeds * SHARED_BYTES_PER_SEED}
    with torch.no_grad(), shield_children(), warnings.catch_warnings():
        # TF32 has 10 bits of mantissa; users who want it set torch's matmul precision themselves.
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
    entries = dict(value.items())  # 74 leaves in 30 us; value[key] takes 160 us
    for key, child in spec.children.items():
        _append_leaves(child, entries[key], leaves)


def _fill(spec: _Spec, values: Iterator[Tensor]) -> Any:
    """The inverse of `_leaves` for one spec: the next tensors in its tree, subtrees without any included."""
    if spec is None:
        return next(values)
    tree = {key: _fill(child, values) for key, child in spec.children.items()}
    # Without checks, which cannot fail here: 55 us for a train state; torch's pytree takes 210 us.
    return TensorDict._new_unsafe(tree, batch_size=spec.batch_size)


def traced_at_first_call(
    fn: Callable[..., Any], *, compile: bool = False, name: str = "a function"
) -> Callable[..., Any]:
    """`trace(fn, *args)` at the first call with each size of the arguments' leading `[S]`; arguments as in `trace`.

    If `compile`, only the function of the last size is kept, and compiling is logged with its duration and the name.
    """
    traced: dict[int, Callable[..., Any]] = {}

    def trace_now(num_seeds: int, args: Sequence[Any]) -> Callable[..., Any]:
        with _TRACING_LOCK:
            if num_seeds in traced:  # by another thread meanwhile
                return traced[num_seeds]
            if compile:
                traced.clear()  # stopped seeds do not come back, and on a GPU each graph holds its own memory
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
