"""What deployment imports: little, and quickly loaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlhive.export import export
from rlhive.policy_fn import load

ROOT = Path(__file__).parents[2]
NOT_NEEDED = (
    "gin",
    "robohive",
    "torchrl",
    "mujoco",
    "gymnasium",
    "absl",
    "matplotlib",
    "tensorboard",
    "filelock",
)
SCRIPT = """
import sys, time
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.argv[3].split(","):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from rlhive.policy_fn import load
import rlhive.policy_fn.loading
import numpy as np
from safetensors.numpy import load_file
started = time.perf_counter()
policy = load(sys.argv[1])
assert time.perf_counter() - started < 0.5, time.perf_counter() - started
stored = load_file(sys.argv[2])
for observation, action in zip(stored["observation"], stored["action"], strict=True):
    assert np.array_equal(policy(observation), action)
print("equal")
"""


@pytest.fixture
def deployed(make_run, tmp_path):
    """A bundle, and actions of the policy it was made of."""
    run_dir = make_run().run_dir
    export(run_dir, tmp_path / "bundle")
    policy = load(run_dir)
    observation = np.random.default_rng(0).normal(size=(200, 21)).astype(np.float32)
    stored = {"observation": observation, "action": np.stack([policy(one) for one in observation])}
    save_file(stored, tmp_path / "stored.safetensors")
    return [str(tmp_path / "bundle"), str(tmp_path / "stored.safetensors")]


def test_bundle_loads_without_what_only_training_needs(deployed):
    command = [sys.executable, "-c", SCRIPT, *deployed, ",".join(NOT_NEEDED)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr


def test_onnx_policy_imports_neither_torch_nor_what_training_needs():
    absent = ",".join((*NOT_NEEDED, "torch", "triton", "tensordict", "safetensors"))
    code = SCRIPT.split("from rlhive.policy_fn import load")[0]
    code += "import rlhive.policy_fn.onnx_policy\nprint('imported')"
    result = subprocess.run([sys.executable, "-c", code, "", "", absent], capture_output=True, text=True)
    assert result.stdout == "imported\n", result.stderr


@pytest.mark.slow
def test_bundle_loads_where_nothing_but_inference_is_installed(deployed, tmp_path):
    import tensordict
    import torch

    uv, python = shutil.which("uv"), tmp_path / "venv/bin/python"
    subprocess.run([uv, "venv", f"--python={sys.executable}", tmp_path / "venv"], check=True)
    packages = [f"torch=={torch.__version__.split('+')[0]}", f"tensordict=={tensordict.__version__}"]
    packages += ["numpy>=1.26,<2", "attrs", "safetensors"]
    install = [uv, "pip", "install", f"--python={python}"]
    subprocess.run([*install, *packages], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, "-c", SCRIPT, *deployed, "none"], capture_output=True, text=True, cwd=tmp_path, env=clean
    )
    assert result.stdout == "equal\n", result.stderr
