import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhive.envs import RoboHive, VectorEnv
from rlhive.envs.pool import _arrives
from rlhive.envs.worker import NICENESS
from tests.envs.bad_toys import Exhausted, Failing, Slow, second_unbuildable, unbuildable
from tests.envs.toy import ConstantReward, MatchSign, ReachPoint

NEXT_KEYS = {"observation", "reward", "rwd_sparse", "terminated", "truncated", "done", "solved"}


def play(env, steps, episode_seeds=None):
    """All that `env` answers to the same random actions, which depend on the environment's number only."""
    seeds, count = env.shape
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(steps, 1, 4, env.spec.action_dim, generator=generator)[:, :, :count] - 1
    trace = [env.reset(episode_seeds)["observation"]]
    for action in actions.expand(steps, seeds, count, -1):
        env.send(action)
        step = env.recv()
        trace += [step["observation"], *(step["next", key].float() for key in sorted(NEXT_KEYS))]
    return torch.cat(trace, -1)  # [S, E, everything]


def trace_of(name_or_factory, seeds, num_envs, num_workers, steps=60):
    with VectorEnv(name_or_factory, seeds=seeds, num_envs=num_envs, num_workers=num_workers) as env:
        return play(env, steps)


def test_shapes_and_types():
    with VectorEnv(ReachPoint, seeds=[1, 2], num_envs=3, num_workers=0) as env:
        first = env.reset()["observation"]
        env.send(torch.zeros(2, 3, 1))
        step = env.recv()
    assert first.shape == (2, 3, 2) and first.dtype == torch.float32
    assert step.batch_size == (2, 3) and set(step["next"].keys()) == NEXT_KEYS
    assert step["observation"].shape == step["next", "observation"].shape == (2, 3, 2)
    for key in NEXT_KEYS - {"observation"}:
        dtype = torch.float32 if key in ("reward", "rwd_sparse") else torch.bool
        assert step["next", key].shape == (2, 3, 1) and step["next", key].dtype == dtype


def test_workers_change_nothing():
    alone = trace_of(ReachPoint, [3, 4], 3, 0)
    for num_workers in (1, 2, 4):
        assert torch.equal(trace_of(ReachPoint, [3, 4], 3, num_workers), alone)


def test_workers_change_nothing_for_robohive():
    alone = trace_of("FrankaReachRandom-v0", [3, 4], 2, 0)
    assert torch.equal(trace_of("FrankaReachRandom-v0", [3, 4], 2, 2), alone)


def test_seed_does_not_depend_on_its_neighbours():
    together = trace_of(ReachPoint, [5, 9, 7], 2, 0)
    assert torch.equal(trace_of(ReachPoint, [9], 2, 0)[0], together[1])
    assert torch.equal(trace_of(ReachPoint, [7, 5], 1, 0)[:, 0], together[[2, 0], 0])
    assert len({tuple(row.tolist()) for row in together[:, :, :2].reshape(-1, 2)}) == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_seeds_that_are_kept_go_on_as_if_nothing_had_been(num_workers):
    settings = {"num_envs": 2, "num_workers": num_workers}
    with (
        VectorEnv(ReachPoint, seeds=[7, 8, 9], **settings) as env,
        VectorEnv(ReachPoint, seeds=[7, 8, 9], **settings) as whole,
    ):
        env.reset(), whole.reset()
        for step in range(30):
            action = torch.full((3, 2, 1), 0.1 * (step % 5))
            whole.send(action)
            expected = whole.recv()
            if step == 10:
                env.keep([2, 0])
            env.send(action if step < 10 else action[[2, 0]])
            assert bool((env.recv() == (expected if step < 10 else expected[[2, 0]])).all())
        assert env.shape == (2, 2)
        alone = env.reset([[1, 2], [3, 4]])
        assert bool((alone == whole.reset([[3, 4], [0, 0], [1, 2]])[[2, 0]]).all())


def test_episode_seeds_determine_the_episodes():
    direct = ReachPoint()
    with VectorEnv(ReachPoint, seeds=[1, 2], num_envs=2, num_workers=1) as env:
        env.reset()
        # 19 steps: those after the 20th are episodes of each environment's own stream.
        first = play(env, 19, [[11, 12], [13, 14]])
        assert torch.equal(play(env, 19, [[11, 12], [13, 14]]), first)
        assert first[1, 0, :2].tolist() == direct.reset(13).tolist()
        assert not torch.equal(play(env, 19), first)
        with pytest.raises(ValueError, match=r"episode_seeds must have shape \(2, 2\)"):
            env.reset([[1, 2]])


def makeFatigue():  # noqa: N802
    return ReachPoint()


class Tiring(ReachPoint):
    name = "myoFatiArmReachRandom-v0"


@pytest.mark.parametrize(("factory", "goes_on"), [(makeFatigue, False), (partial(Tiring), True)])
def test_whether_episodes_are_seeded_depends_on_the_environment_and_not_on_its_factory(factory, goes_on):
    with VectorEnv(factory, seeds=[1], num_workers=0) as env:
        env.reset()
        second = env.reset()["observation"].flatten().tolist()
    first, seed = (int(np.random.SeedSequence((1, 0, n)).generate_state(1, np.uint64)[0]) for n in (0, 1))
    alone = ReachPoint()
    alone.reset(first)
    assert second == alone.reset(None if goes_on else seed).tolist()


def test_first_reset_seeds_robohive_as_documented():
    stream = int(np.random.SeedSequence((6, 1)).generate_state(1, np.uint64)[0])
    with VectorEnv("FrankaReachRandom-v0", seeds=[6], num_envs=2, num_workers=0) as env:
        assert (
            env.reset()["observation"][0, 1].tolist()
            == RoboHive("FrankaReachRandom-v0").reset(stream).tolist()
        )


def test_time_limit_starts_the_next_episode():
    with VectorEnv(ReachPoint, seeds=[1], num_workers=0) as env:
        env.reset()
        for number in range(1, 41):
            env.send(torch.ones(1, 1, 1))
            step = env.recv()
            ended = number % 20 == 0
            assert step["next", "truncated"].item() == step["next", "done"].item() == ended
            assert not step["next", "terminated"].item()
            assert torch.equal(step["observation"], step["next", "observation"]) != ended


def test_terminal_step_keeps_the_true_successor():
    with VectorEnv(MatchSign, seeds=[1], num_envs=4, num_workers=1) as env:
        env.send(env.reset()["observation"])
        step = env.recv()
    assert step["next", "terminated"].all() and step["next", "done"].all() and step["next", "solved"].all()
    assert (step["next", "reward"] == 1).all()
    assert (step["next", "observation"] == 0).all()
    assert (step["observation"].abs() == 1).all()


def test_received_tensors_are_fresh():
    with VectorEnv(ReachPoint, seeds=[1], num_workers=1) as env:
        first = env.reset()["observation"]
        kept = first.clone()
        env.send(torch.ones(1, 1, 1))
        step = env.recv()
        step_kept = step.clone()
        env.send(torch.ones(1, 1, 1))
        env.recv()
    assert torch.equal(first, kept) and (step == step_kept).all()


def test_send_returns_at_once_and_workers_step_side_by_side():
    with VectorEnv(Slow, seeds=[1], num_envs=4, num_workers=4) as env:
        env.reset()
        start = time.perf_counter()
        env.send(torch.zeros(1, 4, 1))
        sent = time.perf_counter() - start
        env.recv()
        received = time.perf_counter() - start
    assert sent < 0.1
    assert 0.3 <= received < 0.9  # 1.2 one after another


@pytest.mark.parametrize("num_workers", [0, 1])
def test_calls_out_of_order_and_bad_actions_are_refused(num_workers):
    with VectorEnv(ConstantReward, seeds=[1], num_envs=2, num_workers=num_workers) as env:
        env.reset()
        with pytest.raises(RuntimeError, match="without send"):
            env.recv()
        with pytest.raises(ValueError, match=r"must have shape \(1, 2, 1\), got \(2, 1\)"):
            env.send(torch.zeros(2, 1))
        with pytest.raises(
            ValueError, match=r"must be a tensor of shape \(1, 2, 1\), got ndarray: torch.from_n"
        ):
            env.send(np.zeros((1, 2, 1)))
        with pytest.raises(ValueError, match="ConstantReward: the action must be finite, got nan"):
            env.send(torch.tensor([[[0.0], [float("nan")]]]))
        env.send(torch.zeros(1, 2, 1))
        with pytest.raises(RuntimeError, match="send\\(\\) twice"):
            env.send(torch.zeros(1, 2, 1))
        with pytest.raises(RuntimeError, match="between"):
            env.reset()
        env.recv()
        env.close()
        with pytest.raises(RuntimeError, match="closed"):
            env.send(torch.zeros(1, 2, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": []}, "VectorEnv needs"),
        ({"seeds": [-1]}, "a seed must be a whole number >= 0, got -1"),
        ({"num_envs": 0}, "VectorEnv needs"),
        ({"num_workers": -1}, "VectorEnv needs"),
        ({"timeout": 0.0}, "VectorEnv needs .*timeout > 0.*timeout=0.0"),
        ({"timeout": math.nan}, "VectorEnv needs .*timeout=nan"),
    ],
)
def test_bad_numbers_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        VectorEnv(ConstantReward, **{"seeds": [1], **wrong})


def test_unknown_name_is_refused_before_a_worker_starts():
    start = time.perf_counter()
    with pytest.raises(ValueError, match="did you mean FrankaReachRandom-v0"):
        VectorEnv("FrankaReachRandm-v0", seeds=[1])
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_environment_that_raises_is_named(num_workers):
    env = VectorEnv(partial(Failing, 70), seeds=[1, 2], num_envs=2, num_workers=num_workers)
    with env, pytest.raises(RuntimeError, match="seed 2, environment 1: ArithmeticError: the arm fell off"):
        play(env, 5, [[1, 2], [3, 70]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_environment_that_raises_stop_iteration_is_named_as_well(num_workers):
    env = VectorEnv(Exhausted, seeds=[1], num_workers=num_workers)
    with env, pytest.raises(RuntimeError, match=r"seed 1, environment 0: StopIteration: $"):
        play(env, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_environment_that_cannot_be_built_is_named(num_workers):
    what = "unbuildable, seed 1, environment 0: FileNotFoundError: no such model: arm.xml"
    with pytest.raises(RuntimeError, match=what):
        VectorEnv(unbuildable, seeds=[1, 2], num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_environments_before_one_that_cannot_be_built_are_closed(num_workers, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"seed 2, environment 0: FileNotFoundError: no such model: arm\.xml"
    ):
        VectorEnv(partial(second_unbuildable, tmp_path), seeds=[1, 2], num_workers=num_workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "opened"]


@pytest.mark.parametrize("seconds", [1e9, math.inf])
def test_patience_may_be_without_end(seconds):
    here, there = multiprocessing.Pipe()
    there.send("answer")
    assert _arrives(here, seconds)
    here.recv()
    assert not _arrives(here, 0.01)


def wait_until_gone(pids, seconds=15.0):
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("while_stepping", [False, True])
def test_killed_worker_is_an_error_and_not_a_hang(while_stepping):
    others = set(children_of(os.getpid()))
    env = VectorEnv(Slow, seeds=[1, 2], num_workers=2)
    env.reset()
    workers = [worker.process.pid for worker in env._pool.workers]
    start = time.perf_counter()
    if while_stepping:
        env.send(torch.zeros(2, 1, 1))
    os.kill(workers[1], signal.SIGKILL)
    with pytest.raises(
        RuntimeError, match=r"worker process of Slow, seeds \[2\], died \(exit code -9\); .* memory"
    ):
        if not while_stepping:
            wait_until_gone(workers[1:])
            env.send(torch.zeros(2, 1, 1))
        env.recv()
    assert time.perf_counter() - start < 10
    wait_until_gone(workers)
    with pytest.raises(RuntimeError, match="closed"):
        env.send(torch.zeros(2, 1, 1))
    assert set(children_of(os.getpid())) - others <= {None} | tracker_pids()


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupted_step_closes_the_environments_and_leaves_no_answer_to_the_next_command(monkeypatch):
    with VectorEnv(ReachPoint, seeds=[1, 2], num_workers=2) as env:
        env.reset()
        env.send(torch.zeros(2, 1, 1))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("rlhive.envs.pool._arrives", interrupt)  # as Ctrl-C does while it waits
            env.recv()
        with pytest.raises(RuntimeError, match="the environments of ReachPoint are closed"):
            env.reset()


def test_a_command_that_was_interrupted_before_all_workers_had_it_closes_them(monkeypatch):
    with VectorEnv(ReachPoint, seeds=[1, 2], num_workers=2) as env:
        env.reset()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(env._pool.workers[1].connection, "send", interrupt)
            env.send(torch.zeros(2, 1, 1))
        with pytest.raises(RuntimeError, match="the environments of ReachPoint are closed"):
            env.reset()


def test_workers_yield_to_the_process_that_learns():
    with VectorEnv(ReachPoint, seeds=[1], num_workers=1) as env:
        niceness = os.getpriority(os.PRIO_PROCESS, env._pool.workers[0].process.pid)
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


def tracker_pids():
    from multiprocessing.resource_tracker import _resource_tracker

    return {_resource_tracker._pid}


PARENT = """
if __name__ == "__main__":
    import signal
    import torch
    from rlhive.envs import VectorEnv
    from tests.envs.toy import ReachPoint

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background is born without it
    try:
        with VectorEnv(ReachPoint, seeds=[1, 2], num_workers=2) as env:
            env.reset()
            print(*(worker.process.pid for worker in env._pool.workers), flush=True)
            while True:
                env.send(torch.zeros(2, 1, 1))
                env.recv()
    except KeyboardInterrupt:
        print("stopped cleanly")
"""


def start_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, script], start_new_session=True, **pipes)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(is_alive(pid) for pid in workers)
    return parent, workers


def test_workers_end_when_the_parent_is_killed(tmp_path):
    parent, workers = start_parent(tmp_path)
    parent.kill()
    parent.wait()
    wait_until_gone(workers)


def test_ctrl_c_reaches_the_parent_alone(tmp_path):
    parent, workers = start_parent(tmp_path)
    os.killpg(parent.pid, signal.SIGINT)
    out, error = parent.communicate(timeout=120)
    assert (out, error, parent.returncode) == ("stopped cleanly\n", "", 0)
    wait_until_gone(workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_all_processes_of_a_command_are_the_parents_to_handle(tmp_path, number):
    parent, workers = start_parent(tmp_path)
    for worker in workers:  # as `timeout`, schedulers and a terminal that is closed do
        os.kill(worker, number)
    time.sleep(0.5)
    assert all(is_alive(pid) for pid in workers) and parent.poll() is None
    os.kill(parent.pid, signal.SIGINT)
    out, error = parent.communicate(timeout=120)
    assert (out, error, parent.returncode) == ("stopped cleanly\n", "", 0)
    wait_until_gone(workers)


def test_workers_that_nobody_closed_end_with_python():
    code = """
import tempfile
directory = tempfile.TemporaryDirectory()  # has a finalizer, so that those of weakref run after multiprocessing's
from rlhive.envs import VectorEnv
from tests.envs.toy import ReachPoint
if __name__ == "__main__":
    env = VectorEnv(ReachPoint, seeds=[1], num_workers=1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_worker_does_not_import_torch():
    with VectorEnv(ReachPoint, seeds=[1], num_workers=1) as env:
        maps = Path(f"/proc/{env._pool.workers[0].process.pid}/maps").read_text()
    assert "libtorch" not in maps


def test_each_worker_has_a_core_of_its_own_where_there_are_enough_of_them():
    cores = os.sched_getaffinity(0)

    def cores_of_workers(count):
        with VectorEnv(ReachPoint, seeds=[1], num_envs=len(cores) + 1, num_workers=count) as env:
            return [os.sched_getaffinity(worker.process.pid) for worker in env._pool.workers]

    assert cores_of_workers(len(cores)) == [{core} for core in sorted(cores)]
    assert cores_of_workers(1) == [cores]


def test_core_that_is_refused_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("rlhive.envs.pool._cores", lambda count: [{100_000}] * count)
    with pytest.raises(RuntimeError, match="worker process cannot run on the core\\(s\\) 100000"):
        VectorEnv(ReachPoint, seeds=[1], num_workers=1)


def test_single_core_steps_in_this_process():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with VectorEnv(ConstantReward, seeds=[1]) as env:
            assert env.reset()["observation"].shape == (1, 1, 1)
            assert env._pool.__class__.__name__ == "LocalPool"
    finally:
        os.sched_setaffinity(0, cores)
