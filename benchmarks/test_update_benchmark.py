"""Updates per second of the whole SAC step, against other libraries, this machine's ceiling, and seed by seed.

    uv run --group bench --with sbx-rl==0.28.0 pytest benchmarks/test_update_benchmark.py -s

All sides of a comparison take turns; the medians over the rounds count. Libraries take theirs in processes of their
own, since the threads that one leaves spinning would slow the next one down.
"""

import contextlib
import functools
import multiprocessing

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.timing import in_turns
from rlhive.command import keep_freed_memory

ROUNDS, UPDATES = 11, 10


def milliseconds(benchmark, sides, *, updates=UPDATES, of=1):
    """Median time of an update of each side, over rounds of `updates` calls of `of` updates each."""
    for update in sides.values():
        for _ in range(3):
            update()
    seconds = benchmark.pedantic(in_turns, args=(sides,), kwargs={"rounds": ROUNDS, "calls": updates})
    medians = {name: 1e3 * value / of for name, value in seconds.items()}
    benchmark.extra_info.update(medians)
    print("\nms per update: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()))
    return medians


def serve(make_update, connection):
    """In a process of its own: makes an update, says the sizes of its networks, and updates as often as it is told."""
    keep_freed_memory()
    update = make_update()
    connection.send(update.num_parameters)
    while count := connection.recv():
        for _ in range(count):
            update()
        connection.send(None)


@contextlib.contextmanager
def in_processes(makers):
    """Functions that make `UPDATES` updates each in another process, and the sizes of their networks, by name."""
    context, connections, processes = multiprocessing.get_context("spawn"), {}, []
    for name, make_update in makers.items():
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(make_update, theirs), daemon=True))
        processes[-1].start()

    def update_there(connection):
        connection.send(UPDATES)
        connection.recv()

    try:
        sizes = {name: connection.recv() for name, connection in connections.items()}
        yield {name: functools.partial(update_there, own) for name, own in connections.items()}, sizes
    finally:
        for process in processes:
            process.kill()


@pytest.mark.timeout(900)
def test_one_seed_against_other_libraries(benchmark):
    pytest.importorskip("sbx", reason="run it with --with sbx-rl==0.28.0")
    makers = {
        "RLHive": peers.rlhive_update,
        "RLHive, not compiled": functools.partial(peers.rlhive_update, compile=False),
        "SB3": peers.sb3_update,
        "SBX": peers.sbx_update,
        "TorchRL": peers.torchrl_update,
    }
    with in_processes(makers) as (sides, sizes):
        assert len(set(sizes.values())) == 1, sizes
        medians = milliseconds(benchmark, sides, updates=1, of=UPDATES)
    ratios = {name: value / medians["RLHive"] for name, value in medians.items()}
    print("ratios: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    assert ratios["SB3"] >= 2.5 and ratios["SBX"] >= 1.3 and ratios["TorchRL"] >= 3.5


@pytest.mark.timeout(900)
def test_fraction_of_the_sgemm_ceiling(benchmark):
    update = peers.rlhive_update()
    eager = peers.rlhive_update(compile=False)
    eager()  # the first call traces
    with FlopCounterMode(display=False) as counter:
        eager()
    matrix = torch.randn(1024, 1024)
    medians = milliseconds(benchmark, {"update": update, "sgemm": lambda: torch.mm(matrix, matrix)})
    rate = counter.get_total_flops() / medians["update"] / 1e6
    ceiling = 2 * 1024**3 / medians["sgemm"] / 1e6
    print(f"{rate:.0f} GFLOP/s of {ceiling:.0f}: {rate / ceiling:.2f}")
    assert rate / ceiling >= 0.5


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("hidden", "num_seeds", "least"), [(256, 4, 1.1), (64, 8, 2.0)])
def test_seeds_together_against_one_after_another(benchmark, hidden, num_seeds, least):
    together, alone = (peers.rlhive_update(count, hidden=hidden) for count in (num_seeds, 1))
    check_equal(together, alone)

    def one_after_another():
        for _ in range(num_seeds):
            alone()

    medians = milliseconds(benchmark, {"together": together, "one after another": one_after_another})
    ratio = medians["one after another"] / medians["together"]
    print(f"{num_seeds} seeds of {hidden}x{hidden} together: {ratio:.2f} times the rate")
    assert ratio >= least


def check_equal(together, alone):
    """The first seed's metrics are the same, bit for bit, whatever runs beside it."""
    assert bool((together()[:1] == alone()).all())
