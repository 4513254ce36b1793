"""Images per second: by backend, quality and number of cameras, and through one and two workers.

    uv run pytest benchmarks/test_render_benchmark.py -s

Each backend has a process of its own. The parts of a comparison take turns, round after round; medians count.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import pytest
import torch

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import VectorEnv

NAME = "FrankaReachRandom-v0"
ROUNDS = 5
SIZES = (64, 224)
CAMERAS = ("left_cam", "right_cam", "top_cam")
IMAGES_PER_SECOND = """
import json, statistics, sys, time
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import RoboHive

name, rounds, sizes, cameras = json.loads(sys.argv[1])
kinds = [(q, s, n) for s in sizes for n in (1, len(cameras)) for q in ("full", "fast")]
envs = {(q, s, n): RoboHive(name, seed=1, pixels=PixelSpec(cameras[:n], s, s, q)) for q, s, n in kinds}
seconds = {kind: [] for kind in kinds}
for env in envs.values():
    env.reset()
    env.render()
for _ in range(rounds):
    for kind, env in envs.items():
        start = time.perf_counter()
        env.render()
        seconds[kind].append(time.perf_counter() - start)
print(json.dumps([[*kind, kind[2] / statistics.median(taken)] for kind, taken in seconds.items()]))
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_images_per_second(backend, benchmark):
    arguments = json.dumps([NAME, ROUNDS, SIZES, CAMERAS])
    command = [sys.executable, "-c", IMAGES_PER_SECOND, arguments]
    environment = {**os.environ, "MUJOCO_GL": backend}

    def measure():
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    lines = json.loads(benchmark.pedantic(measure, rounds=1))
    rates = {(quality, size, count): rate for quality, size, count, rate in lines}
    for (quality, size, count), rate in rates.items():
        print(f"\n{backend} {quality} {size}x{size} from {count} cameras: {rate:.1f} images/s", end="")
    benchmark.extra_info["images per second"] = {" ".join(map(str, kind)): rates[kind] for kind in rates}
    if torch.cuda.is_available():
        return  # a GPU may draw shadows as fast as none
    for size in SIZES:  # 14 to 17 here
        assert rates["fast", size, 1] / rates["full", size, 1] >= 10


@pytest.mark.timeout(600)
def test_workers(benchmark):
    """Steps with one image each through one worker and two: the simulation and the way to the policy included."""
    pixels = PixelSpec(CAMERAS[:1], 64, 64, "fast")
    settings = {"seeds": [1], "num_envs": 4, "pixels": pixels}
    with (
        VectorEnv(NAME, num_workers=1, **settings) as one,
        VectorEnv(NAME, num_workers=2, **settings) as two,
    ):
        action = torch.zeros(1, 4, 9)
        assert (one.reset() == two.reset()).all()
        seconds = {"one worker": [], "two workers": []}

        def one_round():
            for name, env in zip(seconds, (one, two), strict=True):
                start = time.perf_counter()
                for _ in range(10):
                    env.send(action)
                    env.recv()
                seconds[name].append(time.perf_counter() - start)

        benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    rates = {name: 40 / statistics.median(taken[1:]) for name, taken in seconds.items()}
    benchmark.extra_info["steps per second"] = rates
    print("\n" + ", ".join(f"{name}: {rate:.1f} steps with an image/s" for name, rate in rates.items()))
