"""Updates per second of many seeds on one GPU, what a process launches for each, and the memory they take.

    uv run pytest benchmarks/test_gpu_benchmark.py -s

A side's time is that of a row of updates, from a GPU without work to the end of the last one.
"""

import collections
import functools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import peers
from benchmarks.timing import in_turns

NUM_SEEDS = (1, 8, 16, 32, 128)
ROUNDS, UPDATES = 11, 50
# Not cudaDeviceSynchronize: the profiler itself calls it.
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]


def in_a_row(update, updates):
    """That many updates, from a GPU without work to the end of the last one."""
    torch.cuda.synchronize()
    for _ in range(updates):
        update()
    torch.cuda.synchronize()


def milliseconds(benchmark, sides):
    """Median time of an update of each side."""
    rows = {name: functools.partial(in_a_row, update, UPDATES) for name, update in sides.items()}
    seconds = benchmark.pedantic(in_turns, args=(rows,), kwargs={"rounds": ROUNDS})
    found = {name: 1e3 * value / UPDATES for name, value in seconds.items()}
    benchmark.extra_info.update({str(name): value for name, value in found.items()})
    return found


def launches(update, updates=10):
    """How often, per update, the process calls each function of CUDA's runtime, and how many kernels then run."""
    in_a_row(update, 5)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(updates):
            update()
        torch.cuda.synchronize()
    calls, kernels = collections.Counter(), 0
    for event in profiler.events():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        kernels += on_gpu and not event.name.startswith(("Memcpy", "Memset"))
        if not on_gpu and event.name.startswith(("cuda", "cu")):
            calls[event.name] += 1
    return {name: count / updates for name, count in calls.most_common() if count}, kernels / updates


def test_seeds_on_a_gpu(benchmark):
    """16 seeds make 8 times the updates per second of one."""
    sides, memory, first = {}, {}, {}
    for num_seeds in NUM_SEEDS:
        before = torch.cuda.memory_allocated()
        sides[num_seeds] = peers.rlhive_update(num_seeds, device="cuda")
        first[num_seeds] = sides[num_seeds]()[0].cpu()
        memory[num_seeds] = torch.cuda.memory_allocated() - before
    for num_seeds in NUM_SEEDS[1:]:
        for name, value in first[1].items():
            torch.testing.assert_close(first[num_seeds][name], value, rtol=1e-3, atol=1e-3)
    found = milliseconds(benchmark, sides)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for num_seeds, value in found.items():
        rate = 1e3 * num_seeds / value
        ratio = num_seeds * found[1] / value
        print(
            f"S={num_seeds}: {value:.3f} ms, {rate:.0f} seed-updates/s, {ratio:.1f} times those of one, "
            f"{memory[num_seeds] / 1e6:.0f} MB"
        )
    assert 16 * found[1] / found[16] >= 8.0


def test_launches_of_an_update(benchmark):
    """Captured, an update is one launch of a graph and a few copies, and waits for nothing."""
    sides = {
        "captured": peers.rlhive_update(device="cuda"),
        "not compiled": peers.rlhive_update(device="cuda", compile=False),
        "TorchRL": peers.torchrl_update(device="cuda"),
    }
    counts = {name: launches(update) for name, update in sides.items()}
    for name, (calls, kernels) in counts.items():
        print(f"\n{name}: {kernels:.0f} kernels; calls: {calls}")
    found = milliseconds(benchmark, sides)
    print(", ".join(f"{name} {value:.3f} ms" for name, value in found.items()))
    print(f"TorchRL's time is {found['TorchRL'] / found['captured']:.1f} times that of RLHive")
    calls, _ = counts["captured"]
    assert calls["cudaGraphLaunch"] == 1
    assert not any(calls.get(name) for name in WAITS), calls
