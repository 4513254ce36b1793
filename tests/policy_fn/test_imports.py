"""What deployment imports: little, and quickly loaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlhive.core.pixel_spec import PixelSpec
from rlhive.export import export
from rlhive.policy_fn import load
from rlhive.policy_fn.bundle import Bundle, write_bundle
from tests.helpers import make_pixel_policy

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
WITHOUT = """
import sys, time
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.argv[3].split(","):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
SCRIPT = """
from rlhive.policy_fn import load
import rlhive.policy_fn.loading
import numpy as np
from safetensors.numpy import load_file
started = time.perf_counter()
policy = load(sys.argv[1])
assert time.perf_counter() - started < 0.5, time.perf_counter() - started
stored = load_file(sys.argv[2])
for index, action in enumerate(stored.pop("action")):
    assert np.array_equal(policy({key: value[index] for key, value in stored.items()}), action)
print("equal")
"""


@pytest.fixture(params=["state", "images"])
def deployed(request, make_run, franka_spec, tmp_path):
    """A bundle, and actions of the policy it was made of."""
    seen = {"observation": np.random.default_rng(0).normal(size=(200, 21)).astype(np.float32)}
    if request.param == "state":
        policy = load(make_run().run_dir)
        export(tmp_path / "run", tmp_path / "bundle")
    else:
        pixels = PixelSpec(("top_cam",), 24, 24, "fast")
        policy = make_pixel_policy(attrs.evolve(franka_spec, pixels=pixels))
        write_bundle(tmp_path / "bundle", Bundle(policy.spec, policy.params, policy.env_state, 1, 100))
        shape = (200, *pixels.shape)
        seen["pixels"] = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    alone = [policy({key: value[index] for key, value in seen.items()}) for index in range(200)]
    save_file({**seen, "action": np.stack(alone)}, tmp_path / "stored.safetensors")
    return [str(tmp_path / "bundle"), str(tmp_path / "stored.safetensors")]


def test_bundle_loads_without_what_only_training_needs(deployed):
    command = [sys.executable, "-c", WITHOUT + SCRIPT, *deployed, ",".join(NOT_NEEDED)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr


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
        [python, "-c", WITHOUT + SCRIPT, *deployed, "none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean,
    )
    assert result.stdout == "equal\n", result.stderr
