"""The wheel is built, installed as the README says into an environment of its own, and trains there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlhive.envs import simhive

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv")


def run(*command, cwd, **variables):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    finished = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    dist = tmp_path_factory.mktemp("wheel") / "dist"
    run(UV, "build", "--wheel", f"--out-dir={dist}", cwd=ROOT)
    [path] = dist.glob("rlhive_torch-*.whl")
    return path


def test_wheel_holds_code_data_and_gin_files_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "rlhive").rglob("*") if path.is_file()}
    gin_files = {f"rlhive/gin_files/{path.name}" for path in (ROOT / "gin").iterdir()}
    assert names == {name for name in package if "__pycache__" not in name} | gin_files
    assert {
        "rlhive/envs/model_cameras.json",
        "rlhive/envs/suites.json",
        "rlhive/py.typed",
        "rlhive/envs/simhive-0.7.0.sha256",
        "rlhive/gin_files/base.gin",
    } <= names


def test_installed_wheel_trains_outside_the_checkout(wheel):
    outside = wheel.parent.parent
    run(UV, "venv", f"--python={sys.executable}", "venv", cwd=outside)
    readme = (ROOT / "README.md").read_text()
    [install] = re.findall(r"^uv build --wheel\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    run("bash", "-ec", install, cwd=outside, VIRTUAL_ENV=str(outside / "venv"))
    arguments = ["--gin_file=sac_gaussian.gin", "--run_dir=run"]
    bindings = ["TOTAL_STEPS=60", "train.init_random_steps=40", "train.evaluation_episodes=1"]
    models = {"RLHIVE_SIMHIVE": str(simhive.ensure()), "RLHIVE_CACHE": str(outside / "cache")}
    command = [outside / "venv/bin/python", "-m", "rlhive.train", *arguments]
    run(*command, *(f"--gin_bindings={binding}" for binding in bindings), cwd=outside, **models)
    assert (outside / "run/checkpoints/60/params.safetensors").is_file()
