"""Runs `python -m rlhive.doctor` in fresh processes, on this machine as it is and with parts of it broken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import packaging
import pytest

from rlhive import doctor
from rlhive.command_line import command_line
from rlhive.doctor import (
    Finding,
    check_compiler,
    check_environment,
    check_ffmpeg,
    check_machine,
    check_python,
    check_simhive,
    examine,
)
from rlhive.envs import simhive
from rlhive.fresh_process import answer_of

COMMAND = [sys.executable, "-m", "rlhive.doctor"]


def run(first_on_path, cache):
    path = os.pathsep.join([str(first_on_path), *sys.path[1:]])
    env = {**os.environ, "PYTHONPATH": path, "RLHIVE_CACHE": str(cache)}
    finished = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=200)
    assert finished.stderr == ""
    return finished.returncode, finished.stdout


def test_complete_machine_can_train_and_the_first_line_is_instant():
    simhive.ensure()
    start = time.monotonic()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        assert first.startswith("ok    Python") and time.monotonic() - start < 5
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    for subject in (
        "cores",
        "memory",
        "disk",
        "torch ",
        "mujoco",
        "SimHive",
        "GPU",
        "environment",
        "GL egl",
        "MUJOCO_GL",
        "C++ compiler       there",
        "ffmpeg",
    ):
        assert subject in rest
    assert rest.endswith("training can run\n")


def test_without_simhive_it_says_how_to_install_and_installs_nothing(tmp_path):
    package = tmp_path / "site" / "robohive"
    ignore = shutil.ignore_patterns("simhive", "__pycache__")
    shutil.copytree(simhive.robohive_directory(), package, ignore=ignore)
    code, report = run(package.parent, tmp_path / "cache")
    assert code == 1
    assert "FAIL  SimHive            not installed\n" in report
    assert f"fix: `{command_line('rlhive.envs.simhive')}` installs it" in report
    assert report.endswith("training cannot run: 1 to fix\n")
    assert not (tmp_path / "cache").exists()


def test_package_that_does_not_load_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ImportError('undefined symbol: whatever')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["doctor"])
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_torch,))
    assert doctor.main() == 1
    report = capsys.readouterr().out
    assert report.startswith("FAIL")
    assert "do not load: ImportError: undefined symbol: whatever" in report
    assert "training cannot run" in report


def test_ctrl_c_ends_it_in_one_line():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(COMMAND, **pipes) as process:
        assert process.stdout.readline().startswith("ok    Python")
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "rlhive.doctor: interrupted\n")
    assert "training can" not in rest


def test_places_that_cannot_be_used_are_found(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for name, words in (("file", "is a file, not a directory"), ("x" * 300, "File name too long")):
        monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / name))
        _, _, cache, _ = check_machine()
        assert cache.state == "FAIL" and words in cache.text and "set RLHIVE_CACHE to" in cache.fix
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    _, _, cache, here = check_machine()
    assert cache.state == "ok" and here.state == "FAIL" and here.fix.startswith("`cd`")


def test_what_cannot_be_read_is_a_finding_of_its_check(tmp_path):
    def check_models():
        yield Finding("ok", "models", "there")
        (tmp_path / "none").read_text()

    first, failed = examine(check_models)
    assert first.state == "ok" and (failed.state, failed.subject) == ("FAIL", "models")
    assert failed.fix == f"make {tmp_path / 'none'} readable for this user"


WITHOUT_PACKAGES = """
import sys
from rlhive import doctor
doctor.CHECKS = (doctor.check_packages, doctor.check_simhive, doctor.check_environment)
sys.exit(doctor.main())
"""


def test_missing_packages_are_findings_and_no_traceback(tmp_path):
    command = [sys.executable, "-S", "-c", WITHOUT_PACKAGES]  # without site-packages
    environment = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).parent.parent)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "FAIL  packages           cannot be checked: No module named 'packaging'\n" in ran.stdout
    assert "FAIL  simhive            cannot be checked: No module named 'attrs'\n" in ran.stdout
    (tmp_path / "packaging").symlink_to(Path(packaging.__file__).parent)
    environment["PYTHONPATH"] += f":{tmp_path}"
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
    assert "FAIL  absl-py            not installed\n" in said and "FAIL  filelock " in said


def test_a_command_without_its_packages_says_how_to_run_it():
    environment = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).parent.parent)}
    for name, code in (("train", 1), ("data", 1), ("doctor", 0)):
        command = [sys.executable, "-S", "-m", f"rlhive.{name}", "--help"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == code and ran.stderr.startswith(code * f"rlhive.{name}: absl-py is missing")
        assert ran.stderr.count("\n") == code and (not code or "run it with `uv run`" in ran.stderr)


def test_a_cache_without_the_models_is_noted_and_nothing_is_installed(monkeypatch, tmp_path):
    there = simhive.ensure()
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    if not (simhive.robohive_directory() / "simhive").is_symlink():
        pytest.skip("the models are a directory in robohive here, which is taken as it is")
    _, note = check_simhive()
    assert note.state == "note" and "training will install it there" in note.text
    steps = [finding for finding in check_environment() if finding.subject == "environment"]
    assert [finding.state for finding in steps] == ["ok"]
    assert not (tmp_path / "cache").exists()
    assert (simhive.robohive_directory() / "simhive").resolve() == there


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import os; print(1); print(os.environ['A'])", (True, "b")),
        ("pass", (True, "")),
        ("print(1); raise ValueError('why')", (False, "ValueError: why")),
        ("raise SystemExit(3)", (False, "exit code 3")),
        ("import os; os.abort()", (False, "crashed (SIGABRT)")),
        ("import time; time.sleep(60)", (False, "no answer in 1 s")),
    ],
)
def test_code_in_a_process_of_its_own_answers_in_one_line(code, answer):
    assert answer_of(code, seconds=1 if "sleep" in code else 60, A="b") == answer


@pytest.mark.parametrize("slow", [True, False])
def test_it_says_what_makes_starts_and_updates_slow(monkeypatch, tmp_path, slow):
    monkeypatch.setattr(sys, "dont_write_bytecode", slow)  # what PYTHONDONTWRITEBYTECODE=1 sets
    if slow:
        monkeypatch.setenv("PATH", str(tmp_path))
    fixes = " ".join(finding.fix for finding in (*check_python(), *check_compiler()))
    assert ("unset PYTHONDONTWRITEBYTECODE" in fixes) == slow == ("apt-get install g++" in fixes)


def test_an_ffmpeg_that_does_not_run_is_noted(monkeypatch):
    (found,) = check_ffmpeg()
    assert found.state == "ok"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    (found,) = check_ffmpeg()
    assert found.state == "note" and "unset IMAGEIO_FFMPEG_EXE" in found.fix
