"""How much memory a replay takes is said before a run, and one that cannot be there is refused."""

import logging
import subprocess
import sys

import attrs
import pytest
import torch

from rlhive.config import load_config
from rlhive.core.pixel_spec import PixelSpec
from rlhive.machine import free_memory
from rlhive.policy_fn.encoders import feature_dim
from rlhive.runs.run_spec import new_run_spec
from rlhive.training.replay_size import check_replay

ONE_CAMERA = PixelSpec(("top_cam",), 64, 64, "fast")
TRANSITION = 4 * (2 * 21 + 9 + 1) + 2  # bytes: float32 but for two flags; without images and features


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # "scratch" is made there


def check(env, name, *bindings, num_seeds=None):
    weights = ["r3m.weights='random'"] if "r3m" in name else []
    config = load_config([name], [*weights, *bindings])
    encoder = config.make_encoder()
    spec = attrs.evolve(env, pixels=None if encoder is None else ONE_CAMERA)
    network = config.make_network(spec, feature_dim=feature_dim(encoder, spec.pixels))
    replay = config.make_replay(
        num_seeds=num_seeds or config.num_seeds, num_envs=1, device="cpu", total_steps=config.total_steps
    )
    check_replay(replay, config, new_run_spec("sac", spec, network, encoder))


@pytest.mark.parametrize(
    ("name", "image"),
    [("sac.gin", 0), ("sac_r3m.gin", 4 * 2 * 512), ("sac_cnn.gin", 2 * 64 * 64 * 3)],
)
def test_the_memory_of_a_run_is_said(name, image, franka_spec, caplog):
    with caplog.at_level(logging.INFO, "rlhive"):
        check(franka_spec, name, "TOTAL_STEPS=100000", "NUM_SEEDS=2", "replay.scratch_dir='scratch'")
    size = 2 * 100_000 * (TRANSITION + image) / 1e9
    assert f"the replay of 100000 steps of 2 seed(s) takes {1e3 * size:.1f} MB on disk" in caplog.text


def test_seeds_that_have_stopped_take_no_memory(franka_spec, caplog):
    with caplog.at_level(logging.INFO, "rlhive"):
        check(franka_spec, "sac.gin", "TOTAL_STEPS=100000", "NUM_SEEDS=2", num_seeds=1)
    assert f"100000 steps of 1 seed(s) takes {100_000 * TRANSITION / 1e6:.1f} MB" in caplog.text


def test_what_does_not_fit_is_refused_with_the_figure(franka_spec):
    steps = 2 * free_memory() // TRANSITION
    many = (f"TOTAL_STEPS={steps}", f"replay.capacity={steps}")
    with pytest.raises(ValueError, match=r"would take [\d.]+ GB, of [\d.]+ GB of free memory") as refused:
        check(franka_spec, "sac.gin", *many)
    assert "replay.scratch_dir" in str(refused.value) and "\n" not in str(refused.value)
    check(franka_spec, "sac.gin", *many, "replay.scratch_dir='scratch'")


SAVE = """
import sys, torch
from tensordict import TensorDict
from rlhive.core.replay import ReplayBuffer

def peak():
    with open("/proc/self/status") as file:  # getrusage has the parent's, where that is larger
        return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])

width, flag = 50_000, torch.zeros(2, 1, 1, dtype=torch.bool)
replay = ReplayBuffer(200, num_seeds=2)
following = {"observation": torch.ones(2, 1, width), "reward": torch.ones(2, 1, 1), "terminated": flag, "done": flag}
root = {"observation": torch.ones(2, 1, width), "action": torch.ones(2, 1, 1), "next": following}
for _ in range(200):
    replay.extend(TensorDict(root, [2, 1]))
before = peak()
replay.save(sys.argv[1], (1, 2))
print(peak() - before)
"""


def test_a_replay_is_saved_without_a_copy_of_it(tmp_path):
    path = tmp_path / "replay.safetensors"
    done = subprocess.run([sys.executable, "-c", SAVE, path], capture_output=True, text=True, check=True)
    more = int(done.stdout.splitlines()[-1])
    assert path.stat().st_size > 150e6
    assert more < 30e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_does_not_fit_into_a_gpu_is_refused(franka_spec):
    steps = 2 * torch.cuda.mem_get_info()[0] // TRANSITION
    many = ("DEVICE='cuda'", f"replay.capacity={steps}")
    with pytest.raises(ValueError, match=r"of [\d.]+ GB of free memory: lower replay.capacity$"):
        check(franka_spec, "sac.gin", *many, f"TOTAL_STEPS={steps}")
    check(franka_spec, "sac.gin", *many, "TOTAL_STEPS=100000")
