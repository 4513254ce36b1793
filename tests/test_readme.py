"""What README.md says is what happens: its commands run, its Python runs on a run trained by its command."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlhive.envs import simhive

ROOT = Path(__file__).parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
README = (ROOT / "README.md").read_text()
TINY = [
    "--gin_bindings=TOTAL_STEPS=60",
    "--gin_bindings=train.init_random_steps=40",
    "--gin_bindings=train.evaluation_episodes=1",
    "--gin_bindings=train.num_workers=0",
]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(module):
    """The arguments of each `uv run python -m MODULE …` of the README, as the shell would split them."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [
        re.fullmatch(rf"uv run (?:--extra \w+ )?python -m {re.escape(module)}(| .*)", line) for line in lines
    ]
    return [shlex.split(match[1], comments=True) for match in found if match]


def run(module, arguments, directory):
    command = [sys.executable, "-m", module, *arguments]
    finished = subprocess.run(command, cwd=directory, env=ENV, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with a checkout's gin files, and the run that the README trains there, cut short."""
    simhive.ensure()
    directory = tmp_path_factory.mktemp("readme")
    (directory / "gin").symlink_to(ROOT / "gin")
    [arguments] = [arguments for arguments in commands("rlhive.train") if "--run_dir=runs/reach" in arguments]
    run("rlhive.train", [*arguments, *TINY], directory)
    return directory


def test_first_two_commands_are_all_the_set_up():
    first = [line.partition("#")[0].strip() for line in blocks("bash")[0].splitlines()]
    assert first == ["uv run python -m rlhive.train --gin_file=gin/sac_gaussian.gin", "uv run pytest"]


def test_training_command_with_bindings(directory):
    [arguments] = [
        arguments for arguments in commands("rlhive.train") if "--gin_bindings=NUM_SEEDS=3" in arguments
    ]
    run("rlhive.train", [*arguments, *TINY, "--run_dir=runs/other"], directory)
    assert {path.name for path in (directory / "runs/other/checkpoints/60").iterdir()} >= {"seed_1", "seed_3"}


@pytest.mark.parametrize("arguments", commands("rlhive.evaluate"), ids=" ".join)
def test_evaluation_commands(directory, arguments):
    assert "FrankaReachRandom-v0" in run("rlhive.evaluate", [*arguments, "--episodes=1"], directory)


def test_report_commands(directory):
    one, several = commands("rlhive.report")
    [other] = [name for name in several if name.startswith("runs/") and name not in one]
    (directory / other).mkdir()
    for name in ("metrics.csv", "spec.json", "config.gin"):
        shutil.copy(directory / "runs/reach" / name, directory / other)
    assert run("rlhive.report", one, directory) == "runs/reach/report.html\n"
    assert run("rlhive.report", several, directory) == "compare.html\n"
    assert "Probability of improvement" in (directory / "compare.html").read_text()


@pytest.mark.parametrize("arguments", commands("rlhive.envs"), ids=" ".join)
def test_environment_commands(directory, arguments):
    assert "FrankaReachRandom-v0" in run("rlhive.envs", arguments, directory)


def test_robot_models_are_verified(directory):
    assert commands("rlhive.envs.simhive") == [[], ["--verify"]] and commands("rlhive.doctor") == [[]]
    assert "differ from SimHive" in run("rlhive.envs.simhive", ["--verify"], directory)


def test_policy_is_loaded_in_five_lines_and_steps_in_torchrl(directory):
    code = blocks("python")
    assert len([line for line in code[0].splitlines() if line]) == 5
    checks = "assert action.shape == (9,) and episode.batch_size == (50,)"
    path = directory / "program.py"
    path.write_text("".join(code) + checks)
    finished = subprocess.run([sys.executable, path], cwd=directory, env=ENV, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_shipped_gin_files_and_macros_are_those_named():
    assert set(re.findall(r"`(sac\w*\.gin)`", README)) == {
        path.name for path in (ROOT / "gin").glob("sac*.gin")
    }
    macros = dict(
        re.findall(r"^([A-Z_]+) = (.*?)(?: +#.*)?$", (ROOT / "gin/base.gin").read_text(), flags=re.MULTILINE)
    )
    assert dict(re.findall(r"^\| `([A-Z_]+)` \| `(.*?)` \|", README, flags=re.MULTILINE)) == macros


def test_links_lead_to_files_and_headings():
    headings = {
        "#" + title.lower().replace(" ", "-") for title in re.findall("^#+ (.+)$", README, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^):]+)\)", README):
        assert target in headings or (ROOT / target).is_file(), target


def test_overrides_are_those_of_the_project():
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["override-dependencies"]
    [line] = [line for line in "".join(blocks("bash")).splitlines() if line.endswith("> overrides.txt")]
    assert shlex.split(line)[2:-2] == overrides
