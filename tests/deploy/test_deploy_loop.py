"""The loop in simulation: time, limits, traces that survive a crash, and the command."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlhive.command_line import command_line
from rlhive.core import interrupt
from rlhive.data.formats import episodes
from rlhive.data.inspection import inspect
from rlhive.data.trace import read_environment
from rlhive.deploy import Settings, latency, reporting, run
from rlhive.deploy.connecting import simulate
from rlhive.deploy.journal import read_journal, write_trace
from rlhive.deploy.safety import EXIT_CODES, FaultError, Sensors, SensorWatch, limit_action
from rlhive.deploy.watchdog import watchdog
from rlhive.envs.importing import quiet
from rlhive.envs.robohive import env_spec
from rlhive.export import export
from rlhive.policy_fn import LoadError, load

NAME = "FrankaReachRandom-v0"


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture
def policy(make_run, installed):
    return load(make_run(env=installed).run_dir)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.deploy", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_picture_leaves_matplotlib_as_the_caller_has_it(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    latency.plot(np.full(3, 0.001), np.full(3, 0.08), 0.08, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").stat().st_size > 1000
    assert matplotlib.get_backend() == "svg"


def test_simulation_keeps_time_and_records_what_it_did(policy, tmp_path):
    env, threads = simulate(NAME, 0), []
    step = env.step
    env.step = lambda action: (threads.append(threading.active_count()), step(action))[1]
    before, started = threading.active_count(), time.monotonic()
    report = run(policy, env, tmp_path, Settings(max_steps=15))
    assert set(threads) == {before}
    assert time.monotonic() - started >= 15 * 0.08
    assert (report.reason, report.exit_code, report.steps, report.held) == ("finished", 0, 15, "last action")
    assert report.timing["latency_p50"] < 0.01
    *records, last = read_journal(tmp_path / "journal.bin")
    assert np.isnan(last["actions"]).all() and np.isnan(last["period"]) and not last["refused"]
    records = np.array(records)
    assert records["time"][0] == 0.0
    assert np.median(records["period"]) == pytest.approx(0.08, rel=0.05)
    for record in records:
        assert np.array_equal(policy(record["observations"]), record["policy_actions"])
    assert np.array_equal(records["actions"], records["policy_actions"])
    assert (tmp_path / "latency.png").stat().st_size > 1000
    assert json.loads((tmp_path / "report.json").read_text())["exit_code"] == 0


def test_a_trace_is_of_the_environment_that_was_run(policy, tmp_path):
    run(policy, simulate("FrankaReachFixed-v0", 0), tmp_path, Settings(max_steps=2))
    assert read_environment(tmp_path / "trace.h5") == "FrankaReachFixed-v0"


def test_trace_is_robohives(policy, tmp_path):
    report = run(policy, simulate(NAME, 0), tmp_path, Settings(max_steps=4))
    with quiet():
        from robohive.logger.grouped_datasets import Trace

        trace = Trace.load(str(tmp_path / "trace.h5"))
    trial = trace["Trial0"]
    records = read_journal(tmp_path / "journal.bin")
    for name in ("time", "observations"):
        assert np.array_equal(trial[name][:], records[name]), name
    assert (
        np.array_equal(trial["actions"][:-1], records["actions"][:-1])
        and np.isnan(trial["actions"][-1]).all()
    )
    for name, group in (("rewards", trial), ("done", trial), ("solved", trial["env_infos"])):
        assert np.array_equal(group[name][1:], records[name][:-1]) and not group[name][0], name
    for name in ("actions", "controls", "latency"):
        assert np.array_equal(trial["deploy"][name][:], records[name], equal_nan=True), name
    trace.trace.close()
    assert len(records) == report.steps + 1
    [episode] = episodes(tmp_path / "trace.h5", "trace")
    assert len(episode.actions) == report.steps
    assert episode.rewards.sum() == pytest.approx(report.total_reward, rel=1e-6)
    assert np.array_equal(episode.actions, records["actions"][:-1])
    np.testing.assert_allclose(episode.rewards, records["rewards"][:-1], rtol=1e-6)
    _, [inspected] = inspect(tmp_path / "trace.h5")
    assert [name for name, key in inspected.keys.items() if key.nans] == []


def test_actions_change_no_more_than_they_may(policy, tmp_path):
    run(policy, simulate(NAME, 0), tmp_path, Settings(max_steps=8, max_delta=0.01))
    actions = read_journal(tmp_path / "journal.bin")["actions"][:-1]
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.01 + 1e-6


def test_dry_run_moves_nothing_after_the_reset(policy, tmp_path):
    env = simulate(NAME, 0)
    reset, starts = env.reset, []

    def reset_and_remember():
        result = reset()
        starts.append(env.sim.data.qpos.copy())
        return result

    env.reset = reset_and_remember
    report = run(policy, env, tmp_path, Settings(max_steps=3, dry_run=True))
    assert (report.steps, report.held) == (3, "nothing, it was a dry run")
    [start] = starts
    assert np.array_equal(env.sim.data.qpos, start)


def test_fault_in_simulation_goes_to_the_safe_action(policy, tmp_path):
    env = simulate(NAME, 0)
    sent, step = [], env.step

    def failing(action):
        sent.append(np.array(action))
        result = step(action)
        if len(sent) == 3:
            env.obs_dict["reach_err"] = np.array([0.0, np.nan, 0.0])
        return result

    env.step = failing
    report = run(policy, env, tmp_path, Settings(max_steps=10, safe_action=(0.5,) * 9))
    assert (report.reason, report.exit_code) == ("observation_not_finite", 10)
    assert report.message == "the observation is not finite at reach_err[1]"
    assert report.held == "safe action"
    assert np.array_equal(sent[-1], np.full(9, 0.5, np.float32))
    assert report.stop_seconds <= 0.08


def simulate_disturbed(disturb):
    """A simulation and the actions that it is sent, of which `disturb(count)` is told before each step."""
    env = simulate(NAME, 0)
    sent, step = [], env.step

    def disturbed(action):
        sent.append(np.array(action))
        disturb(len(sent))
        return step(action)

    env.step = disturbed
    return env, sent


def test_ctrl_c_holds_the_last_action_and_not_the_safe_one(policy, tmp_path):
    def interrupt_the_third(count):
        if count == 3:
            signal.raise_signal(signal.SIGINT)

    env, sent = simulate_disturbed(interrupt_the_third)
    report = run(policy, env, tmp_path, Settings(max_steps=10, safe_action=(0.5,) * 9, max_delta=0.05))
    assert (report.reason, report.steps, report.held) == ("interrupted", 3, "last action")
    assert len(sent) == 4 and np.array_equal(sent[3], sent[2])


def test_ctrl_c_on_the_way_to_the_safe_action_holds_the_robot_where_it_is(policy, tmp_path):
    def fail_at_the_second_and_interrupt_the_fifth(count):
        if count == 5:
            signal.raise_signal(signal.SIGINT)
        if count == 2:
            raise RuntimeError("a fault")

    env, sent = simulate_disturbed(fail_at_the_second_and_interrupt_the_fifth)
    report = run(policy, env, tmp_path, Settings(max_steps=10, safe_action=(0.5,) * 9, max_delta=0.01))
    assert (report.reason, report.exit_code) == ("robot_failed", 16)
    assert report.held == "last action, stopped on the way to the safe action"
    assert len(sent) == 6 and np.array_equal(sent[5], sent[4]) and not np.array_equal(sent[4], sent[3])
    assert json.loads((tmp_path / "report.json").read_text())["held"] == report.held
    assert (tmp_path / "trace.h5").exists()


def test_ctrl_c_in_a_step_that_fails_holds_the_last_action(policy, tmp_path):
    def interrupt_the_second_and_fail(count):
        if count == 2:
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError("a fault, too")

    env, sent = simulate_disturbed(interrupt_the_second_and_fail)
    report = run(policy, env, tmp_path, Settings(max_steps=10, safe_action=(0.5,) * 9, max_delta=0.01))
    assert (report.reason, report.held) == ("robot_failed", "last action")
    assert len(sent) == 3 and np.array_equal(sent[2], sent[0])  # the second never got there


def test_signals_while_the_report_is_written_do_not_end_it(policy, tmp_path, monkeypatch):
    def impatient(*args):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)

    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0.0)
    monkeypatch.setattr(reporting, "plot", impatient)
    report = run(policy, simulate(NAME, 0), tmp_path, Settings(max_steps=2))
    assert (report.reason, report.steps) == ("finished", 2)
    assert (tmp_path / "report.json").exists() and (tmp_path / "trace.h5").exists()


def test_robot_that_stalls_is_left(policy, tmp_path):
    env, _ = simulate_disturbed(lambda count: time.sleep(5.0 if count > 1 else 0.0))
    started = time.monotonic()
    report = run(policy, env, tmp_path, Settings(max_steps=10))
    assert time.monotonic() - started < 2.0
    assert report.reason == "robot_stalled"
    assert report.held.startswith("nothing could be sent: ")
    assert report.steps == 1


def test_watchdog_gets_out_of_drivers_that_catch_everything():
    with (
        pytest.raises(FaultError, match=r"the driver did not end within 0.100 s"),
        watchdog(0.1, "the driver"),
    ):
        for _ in range(2):
            try:
                time.sleep(5.0)
            except BaseException:
                continue
        time.sleep(5.0)


def test_watchdog_finds_what_swallowed_its_signal():
    with (
        pytest.raises(FaultError, match=r"the driver did not end"),
        watchdog(0.05, "the driver"),
        contextlib.suppress(FaultError),
    ):
        time.sleep(5.0)


def test_watchdog_finds_what_made_another_error_of_its_signal():
    with (
        pytest.raises(FaultError, match=r"the driver did not end") as caught,
        watchdog(0.05, "the driver"),
    ):
        try:
            time.sleep(5.0)
        except FaultError:
            raise FaultError("robot_failed", "the connection is lost") from None
    assert caught.value.reason == "robot_stalled"


def test_watchdog_leaves_an_error_in_time_as_it_is():
    with pytest.raises(ValueError, match="in time"), watchdog(5.0, "the driver"):
        raise ValueError("in time")


def test_watchdog_leaves_no_timer(monkeypatch):
    """Where the signal comes as the block ends, before the timer is stopped."""
    setitimer = signal.setitimer

    def late(which, seconds, interval=0.0):
        if seconds == 0:
            signal.raise_signal(signal.SIGALRM)
        return setitimer(which, seconds, interval)

    monkeypatch.setattr(signal, "setitimer", late)
    with watchdog(5.0, "the driver"):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps must be positive"),
        ({"max_delta": float("nan")}, "max_delta must be positive"),
        ({"max_delta": 1e-9}, "no action would ever be reached"),
        ({"safe_action": (0.0,) * 8}, "safe_action must be 9 finite numbers"),
        ({"safe_action": (2.0,) * 9}, "outside the action's limits"),
    ],
)
def test_settings_that_make_no_sense(policy, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(policy, simulate(NAME, 0), tmp_path / "out", Settings(**settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": None}, "frozen must be a number, got None"),
        ({"max_steps": 2.5}, r"max_steps must be a whole number, got 2\.5"),
        ({"max_steps": True}, "max_steps must be a whole number, got True"),
        ({"max_seconds": Fraction(1, 10**400)}, r"max_seconds must be positive and finite, got 0\.0"),
        ({"max_delta": "0.1"}, r"max_delta must be a number, got '0\.1'"),
        ({"max_delta": [0.1]}, r"max_delta must be a number, got \[0\.1\]"),
        ({"dry_run": "no"}, "dry_run must be True or False, got 'no'"),
        ({"safe_action": 0.3}, r"safe_action must be a number for each actuator, got 0\.3"),
    ],
)
def test_settings_of_another_type_are_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings(**settings)


def test_limit_action_checks_before_it_clips():
    low, high = np.float32([-1, 0]), np.float32([1, 4])
    assert limit_action(np.float32([-3, 9]), None, low, high, None).tolist() == [-1, 4]
    assert limit_action(np.float32([1, 4]), np.float32([0, 0]), low, high, 0.5).tolist() == [0.5, 0.5]
    assert limit_action(np.float32([1, 4]), np.float32([np.nan, 0]), low, high, 0.5).tolist() == [1, 0.5]
    for value in (np.nan, np.inf):
        with pytest.raises(FaultError, match="the action is not finite"):
            limit_action(np.float32([value, 0]), None, low, high, None)


def test_sensor_watch_knows_devices_apart():
    watch = SensorWatch(staleness=0.1, frozen=1.0)
    for step in range(30):
        now = 0.1 * step
        moving = Sensors(np.array([now, 0.0]), 0.05)
        # One value may stand still.
        watch.check(now, {"arm": moving, "gripper": Sensors(np.array([0.08]), np.nan)})
    with pytest.raises(FaultError, match="no value of arm changed") as frozen:
        watch.check(now + 1.1, {"arm": moving})
    assert frozen.value.frozen_since == now
    with pytest.raises(FaultError, match=r"the measurement of arm is 0\.200 s old, more than 0\.100 s"):
        watch.check(now, {"arm": Sensors(np.array([9.0, 0.0]), 0.2)})
    watch.check(now, {"arm": Sensors(np.array([8.0, 0.0]), -0.05)})
    with pytest.raises(
        FaultError, match=r"arm is stamped 3600\.000 s in the future: robot and computer"
    ) as ahead:
        watch.check(now, {"arm": Sensors(np.array([9.0, 0.0]), -3600.0)})
    assert ahead.value.reason == "sensors_stale"


def test_journal_of_a_killed_process_becomes_a_trace(make_run, installed, tmp_path):
    export(make_run(env=installed).run_dir, tmp_path / "bundle")
    out = tmp_path / "out"
    arguments = [f"--bundle={tmp_path / 'bundle'}", f"--out={out}", "--max_seconds=100"]
    process = subprocess.Popen([sys.executable, "-m", "rlhive.deploy", *arguments], stderr=subprocess.DEVNULL)
    journal = out / "journal.bin"
    deadline = time.monotonic() + 60.0
    while not (journal.exists() and len(read_journal(journal)) >= 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    steps = len(read_journal(journal))
    assert steps >= 5
    with journal.open("ab") as file:
        file.write(b"half of a record")
    result = command(f"--recover={out}")
    told = f"{out / 'trace.h5'}: {steps} steps, {steps - 1} with an outcome\n"
    assert result.stdout == told, result.stderr
    with h5py.File(out / "trace.h5") as file:
        assert len(file["Trial0/actions"]) == steps


def test_a_journal_of_another_version_says_so(tmp_path):
    (tmp_path / "journal.bin").write_bytes(b'{"format": "rlhive-journal-2"}\n')
    message = r"another version \('rlhive-journal-2'\); recover it with the RLHive that wrote it$"
    with pytest.raises(LoadError, match=message):
        write_trace(tmp_path / "journal.bin", tmp_path / "trace.h5")


def test_what_is_no_journal_is_refused(tmp_path):
    for content in (b"", b"\x80\x04pickle", b'{"format": "other"}\n', b"[" * 100_000):
        (tmp_path / "journal.bin").write_bytes(content)
        with pytest.raises(LoadError, match="is not a journal"):
            write_trace(tmp_path / "journal.bin", tmp_path / "trace.h5")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_stops_safely_on_ctrl_c(make_run, installed, tmp_path, number):
    export(make_run(env=installed).run_dir, tmp_path / "bundle")
    arguments = [f"--bundle={tmp_path / 'bundle'}", f"--out={tmp_path / 'out'}", "--max_seconds=100"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhive.deploy", *arguments], stdout=subprocess.PIPE, text=True
    )
    journal = tmp_path / "out/journal.bin"
    deadline = time.monotonic() + 240.0
    while not (journal.exists() and len(read_journal(journal)) >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    time.sleep(0.01)
    os.kill(process.pid, number)  # as `timeout` does
    output, _ = process.communicate(timeout=30)
    assert process.returncode == EXIT_CODES["interrupted"] == 130
    assert output.startswith(f"interrupted: signal {int(number)} after ")
    assert "left holding: last action" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--bundle must be given"),
        (("--bundle=.", "--out="), "--out must be given"),
        (("--bundle=.", f"--out={__file__}"), "test_deploy_loop.py: is a file; name a directory"),
        (("--recover=nowhere",), "--recover=nowhere: has no journal.bin; name the --out of a deployment"),
        (("--recover=",), "--recover=: has no journal.bin"),
        (("--bundle=nowhere", "--out=x"), "--bundle=nowhere: there is no such directory"),
        (("--bundle=.", "--out=x", "--hardware=nowhere"), "--hardware=nowhere: there is no such file"),
        (
            ("--bundle=.", "--out=x", f"--hardware={__file__}"),
            "hardware needs max_delta, the most that an action may change",
        ),
        (
            ("--recover=x", "--out=y", "--seed=0"),
            "--recover takes no other flag: leave out --out, --seed",
        ),
        (("--recover=x", "--import=y"), "--recover takes no other flag: leave out --import"),
        (
            ("--bundle=.", "--out=x", f"--hardware={__file__}", "--seed=0"),
            "--seed is for simulated episodes: leave it out with --hardware",
        ),
        (("--bundle=.", "--out=x", "--safe_action=0,a"), "--safe_action=0,a: must be numbers"),
        (
            ("--bundle=.", "--out=x", "--max_delta=1e-9"),
            "max_delta is 1e-09: below 0.0001 no action",
        ),
        (("--bundle=.", "--out=x", "--staleness=-1"), "staleness must be positive and finite, got -1.0"),
        (("--bundle=.", "--out=x", "more"), "unknown argument 'more'"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_a_run_of_several_seeds_is_to_be_exported(tmp_path):
    for seed in (1, 2):
        (tmp_path / "run" / "checkpoints" / "latest" / f"seed_{seed}").mkdir(parents=True)
    result = command(f"--bundle={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"`{command_line('rlhive.export')} --run_dir={tmp_path / 'run'} --seed=" in result.stderr


def test_a_journal_is_never_added_to(tmp_path):
    (tmp_path / "journal.bin").touch()
    result = command("--bundle=.", f"--out={tmp_path}")
    assert result.returncode == 2
    message = f"--out={tmp_path}: has the journal.bin of another deployment; name another directory"
    assert result.stderr == f"rlhive.deploy: {message}\n"


def test_exit_codes_are_as_documented():
    document = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([a-z_, ]+) \|", document, re.MULTILINE)
    documented = {
        reason: int(code) for code, reasons in rows for reason in reasons.split(", ") if reason.strip()
    }
    assert documented == EXIT_CODES
