"""A function of tensors on a GPU as one CUDA graph: one launch instead of a hundred, which cost more than the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP_CALLS = 3


def capture(run: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """Records what `run(*examples)` launches, to be repeated on other tensors of the same shapes.

    The graph reads and writes its own memory. Arguments are copied in and results copied out, so later calls overwrite
    neither.

    Args:
        run: launches the same kernels at every call, waits for none of them, draws from no generator, and reads
            only its arguments.
        examples: example arguments, all on one GPU.

    Returns:
        The function; it raises ValueError for arguments of another shape.
    """
    device = examples[0].device
    memory = [example.clone() for example in examples]  # used by the graph, so it must live as long
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        _warm_up(run, memory)
        with torch.cuda.graph(graph):
            results = list(run(*memory))
    shapes = [example.shape for example in examples]
    fill_memory, read_results = _copier(examples), _copier(results)

    def captured(*values: Tensor) -> list[Tensor]:
        if [value.shape for value in values] != shapes:
            raise ValueError("a captured function takes arguments of the shapes that it was captured with")
        with torch.cuda.device(device):
            fill_memory(memory, values)
            graph.replay()
            fresh = [torch.empty_like(result) for result in results]
            read_results(fresh, results)
        return fresh

    return captured


def _warm_up(run: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor]) -> None:
    """Runs what a first call sets up on another stream than the captured one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            run(*arguments)
    torch.cuda.current_stream().wait_stream(stream)


def _copier(examples: Sequence[Tensor]) -> Callable[[Sequence[Tensor], Sequence[Tensor]], None]:
    """`copy(targets, sources)` for tensors like these: one launch per dtype."""
    places: dict[torch.dtype, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.dtype, []).append(place)

    def copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        for of_dtype in places.values():
            torch._foreach_copy_(
                [targets[place] for place in of_dtype], [sources[place] for place in of_dtype]
            )

    return copy
