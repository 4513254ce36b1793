"""The command that writes a bundle."""

import subprocess
import sys

import numpy as np
import pytest

from rlhive.algorithms import ALGORITHMS
from rlhive.policy_fn import load


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.export", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out",), "rlhive.export: --run_dir must be given; see --help"),
        (("--run_dir=nowhere", "out"), "--run_dir=nowhere: there is no such directory"),
        (("--run_dir=.",), "name one directory to write"),
        (("--run_dir=.", "a", "b"), "name one directory to write"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("algorithm", "flags"), [("sac", ()), ("own", ("--import=parts_of_ones_own",))])
def test_command_exports_one_seed(make_run, tmp_path, monkeypatch, algorithm, flags):
    enter = "from rlhive.algorithms import ALGORITHMS\nALGORITHMS['own'] = ALGORITHMS['sac']\n"
    (tmp_path / "parts_of_ones_own.py").write_text(enter)
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"])
    run = make_run(seeds=(1, 2), algorithm=algorithm)
    out = tmp_path / "policies/reach"
    result = command(f"--run_dir={run.run_dir}", "--seed=2", *flags, out, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{out}\n"), result.stderr
    observation = np.ones(21)
    assert np.array_equal(load(out)(observation), load(run.run_dir, seed=2)(observation))


@pytest.mark.slow
def test_command_writes_both_graphs(make_run, tmp_path):
    from rlhive.envs.robohive import env_spec
    from rlhive.policy_fn.onnx_policy import load_onnx

    run = make_run(env=env_spec("FrankaReachRandom-v0"))
    result = command(f"--run_dir={run.run_dir}", "--onnx", "--torch_export", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert {"policy.onnx", "policy.pt2"} < {path.name for path in (tmp_path / "out").iterdir()}
    observation = np.ones(21)
    action = load(tmp_path / "out")(observation)
    np.testing.assert_allclose(load_onnx(tmp_path / "out")(observation), action, atol=1e-5)
