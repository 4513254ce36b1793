import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rlhive.envs import RoboHive
from rlhive.envs.__main__ import _summarise, main
from rlhive.envs.interface import StepResult


def run(*arguments, cwd=None, **environment):
    command = [sys.executable, "-m", "rlhive.envs", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=300)


def test_list_prints_suite_and_name(capsys):
    assert main(["--list", "dkittywalk"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["quadrupeds", "DKittyWalkFixed-v0"],
        ["quadrupeds", "DKittyWalkRandom-v0"],
        ["quadrupeds", "DKittyWalkRandom_v2d-v0"],
    ]


def test_list_without_a_pattern_prints_all(capsys):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 521


def test_list_without_a_match_fails_in_one_line(capsys):
    assert main(["--list", "nothing-like-it"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.endswith(": --list without a pattern prints all of them\n")
    assert main(["--list", "Farnka"]) == 1
    assert "contains 'Farnka': did you mean franka" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "--check NAME"),
        (["--help"], "--picture FILE.png"),
        (["--lost"], "rlhive.envs: one of the arguments --list --check is required; see --help"),
        (["--list", "--lost"], "rlhive.envs: unrecognized arguments: --lost; see --help"),
        ([], "one of the arguments --list --check is required"),
        (["--check", "door-v1", "--steps", "0"], "must be an integer of 1 or more, got '0'"),
        (["--check", "door-v1", "--seed", "x"], "must be an integer of 0 or more, got 'x'"),
        (["--check", "door-v1", "--policy", "best"], "invalid choice: 'best'"),
        (["--list", "door", "--picture", "x.png"], "--picture needs --check NAME; --list only prints ids"),
        (["--list", "--seed", "0"], "--seed needs --check NAME"),
        (["--list", "--steps", "200"], "--steps needs --check NAME"),
        (["--list", "--policy", "random"], "--policy needs --check NAME"),
    ],
)
def test_help_and_wrong_flags_are_answered(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    assert caught.value.code == (0 if arguments == ["--help"] else 2)
    assert said in captured.out + captured.err
    assert captured.err.count("\n") == (0 if arguments == ["--help"] else 1)


@pytest.mark.parametrize("arguments", [("--help",), ("--lost",), ("--check", "FrankaReach-v0")])
def test_answers_that_need_no_environment_come_at_once(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, since other processes may keep it from this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_unknown_environment_fails_in_one_line():
    result = run("--check", "FrankaReech-v0")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("rlhive.envs: ")
    assert "did you mean" in result.stderr and "FrankaReachRandom-v0" in result.stderr


def test_check_prints_what_the_environment_is_and_does(tmp_path):
    result = run(
        "--check",
        "FrankaReachRandom-v0",
        "--policy",
        "zero",
        "--steps",
        "60",
        "--picture=seen.png",
        cwd=tmp_path,
    )
    assert result.returncode == 0 and result.stderr == ""
    said = result.stdout
    assert "FrankaReachRandom-v0: 0.08 s per step, 50 steps per episode" in said
    assert "observation: float32 [21]" in said and "reach_err               [18:21]" in said
    assert "action: float32 [9]" in said and "panda0_joint1           -1 .. 1" in said
    assert "60 steps with the zero policy, seed 0" in said and "steps/s" in said
    assert "reward: " in said and "1 episodes: mean return" in said and "0 successful" in said
    picture = said.splitlines()[-1]
    if picture.startswith("picture: "):
        assert picture == "picture: seen.png"
        assert (tmp_path / picture.removeprefix("picture: ")).read_bytes()[:4] == b"\x89PNG"
    else:
        assert picture.startswith("no picture: ")


def test_check_says_where_success_and_episodes_tell_nothing():
    def said(*steps):
        return _summarise([StepResult(np.zeros(1), 1.0, end, False, solved, 0.0) for solved, end in steps])

    assert "solved on no step\n" in said((False, False), (False, False))
    assert "solved on every step\n" in said((True, False), (True, True))
    text = said((True, False), (False, False), (False, True), (True, True), (True, False))
    assert (
        "solved on 3 steps\n" in text
        and "2 episodes: mean return 2.00, mean length 2.0, 0 successful" in text
    )
    assert text.endswith("\n1 of them ended after 1 step: an episode that starts finished teaches nothing\n")


def test_check_goes_on_where_rendering_does_not_work(tmp_path):
    variables = {"MUJOCO_GL": "glfw", "DISPLAY": ""}
    result = run(
        "--check", "TrifingerReachRandom-v0", "--steps", "5", "--picture=x.png", cwd=tmp_path, **variables
    )
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.splitlines()[-1].startswith("no picture: ")
    assert "no episode ended" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_says_why_a_picture_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seen.png").mkdir()
    with pytest.raises(ValueError, match=r"seen\.png: is there already"):
        main(["--check", "FrankaReachRandom-v0", "--steps=1", "--picture=seen.png"])
    # As if it came to be there meanwhile.
    monkeypatch.setattr("rlhive.envs.__main__.check_new", lambda *_: None)
    assert main(["--check", "FrankaReachRandom-v0", "--steps=1", "--picture=seen.png"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("no picture: ") and "Is a directory" in last and "MUJOCO_GL" not in last
    assert [path.name for path in tmp_path.iterdir()] == ["seen.png"]
    assert main(["--check", "FrankaReachRandom-v0", "--steps=1"]) == 0
    assert "picture" not in capsys.readouterr().out and [*tmp_path.iterdir()] == [tmp_path / "seen.png"]


def test_check_closes_an_environment_that_fails(monkeypatch, capsys):
    class Failing(RoboHive):
        def __init__(self, name):
            super().__init__(name)
            opened.append(self)

        def step(self, action):
            raise ArithmeticError("the arm fell off")

    opened = []
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", Failing)
    with pytest.raises(ArithmeticError, match="the arm fell off"):
        main(["--check", "FrankaReachRandom-v0"])
    [env] = opened
    assert env.env is None


def test_ctrl_c_ends_a_check_in_one_line():
    command = [sys.executable, "-m", "rlhive.envs", "--check", "FrankaReachRandom-v0", "--steps=1000000"]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **settings) as check:
        described = any(line.startswith("action: ") for line in check.stdout)
        time.sleep(2)  # by then it steps
        check.send_signal(signal.SIGINT)
        try:
            rest, said = check.communicate(timeout=60)
        finally:
            check.kill()
    assert described and (check.returncode, said) == (130, "rlhive.envs: interrupted\n")
    assert "steps/s" not in rest
