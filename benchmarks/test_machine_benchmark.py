"""What this machine can do at best: matrix products and memory bandwidth, one thread and all; the ceilings of the rest.

uv run pytest benchmarks/test_machine_benchmark.py -s
"""

import statistics
import time

import pytest
import torch

ROUNDS = 15
CASES = {
    "sgemm 1024": (2 * 1024**3, (1024, 1024), torch.mm),
    "sgemm 256": (2 * 256**3, (256, 256), torch.mm),
    "bmm 2 x 256": (4 * 256**3, (2, 256, 256), torch.bmm),
    "bmm 8 x 256": (16 * 256**3, (8, 256, 256), torch.bmm),
    "bmm 16 x 64": (32 * 64**3, (16, 64, 64), torch.bmm),
}
BUFFER = 1 << 28  # bytes, beyond every cache


def seconds(call, repeats):
    """Median of `ROUNDS` rounds, per call."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - started) / repeats)
    return statistics.median(times[1:])


@pytest.fixture(params=[1, None], ids=["one thread", "all threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param or torch.multiprocessing.cpu_count())
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_matrix_products(benchmark, threads, name):
    flops, shape, product = CASES[name]
    one, other = torch.randn(shape), torch.randn(shape)
    rate = flops / seconds(lambda: product(one, other), max(1, 2**29 // flops)) / 1e9
    benchmark.extra_info["gflops"] = rate
    benchmark.pedantic(lambda: product(one, other), rounds=3)
    print(f"\n{name}, {threads} thread(s): {rate:.0f} GFLOP/s")
    exact = product(one.double(), other.double())
    torch.testing.assert_close(product(one, other).double(), exact, rtol=1e-4, atol=1e-3)


def test_memory_bandwidth(benchmark, threads):
    source, target = torch.ones(BUFFER // 4), torch.empty(BUFFER // 4)
    rate = 2 * BUFFER / seconds(lambda: target.copy_(source), 1) / 1e9
    benchmark.extra_info["gigabytes_per_second"] = rate
    benchmark.pedantic(lambda: target.copy_(source), rounds=3)
    print(f"\ncopy, {threads} thread(s): {rate:.1f} GB/s read and written")
    assert torch.equal(source, target)
