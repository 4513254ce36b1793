import os
import signal
import time
import tracemalloc
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import RoboHive, VectorEnv
from rlhive.envs.chunk import episode_seed
from tests.envs.bad_toys import Slow
from tests.envs.short_episodes import PIXELS, short_franka, stacked_franka

FRANKA = "FrankaReachRandom-v0"
ACTIONS = 2 * torch.rand(5, 2, 1, 9, generator=torch.Generator().manual_seed(0)) - 1
SEEDS = [[11], [12]]  # of the first episodes


def play(num_workers):
    """What two environments with episodes of three steps answer to five actions."""
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=num_workers) as env:
        trace = [env.reset(SEEDS)]
        for action in ACTIONS:
            env.send(action)
            trace.append(env.recv())
    return trace


@pytest.fixture(scope="module")
def here():
    return play(0)


def test_shapes_and_types(here):
    first, step = here[:2]
    for td in (first, step, step["next"]):
        assert td.batch_size == (2, 1)
        assert td["pixels"].shape == (2, 1, *PIXELS.shape) and td["pixels"].dtype == torch.uint8
        assert td["depth"].shape == (2, 1, *PIXELS.shape[:3]) and td["depth"].dtype == torch.float32


def test_workers_change_nothing(here):
    for ours, theirs in zip(here, play(2), strict=True):
        assert (ours == theirs).all()


def test_images_are_those_of_a_single_environment(here):
    single = short_franka()
    for row, (seed,) in enumerate(SEEDS):
        single.reset(seed)
        seen = single.images()
        assert all(np.array_equal(here[0][key][row, 0], seen[key]) for key in seen)
        for step in range(3):  # the third ends the episode
            single.step(ACTIONS[step, row, 0].numpy())
            seen = single.images()
            following = here[step + 1]["next"]
            assert bool(following["done"][row]) == (step == 2)
            assert all(np.array_equal(following[key][row, 0], seen[key]) for key in seen)


def test_policy_sees_the_new_episode_after_the_end_of_one(here):
    middle, end, after = here[2], here[3], here[4]
    assert (middle["pixels"] == middle["next", "pixels"]).all()
    for key in ("pixels", "depth"):
        assert (end[key] != end["next", key]).flatten(2).any(-1).all()
    assert (after["pixels"] != end["pixels"]).flatten(2).any(-1).all()
    # The new episode is in the very state that the images show: its first observation leads to both.
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=0) as env:
        env.reset(SEEDS)
        for action in ACTIONS[:3]:
            env.send(action)
            step = env.recv()
        now = [single.images() for single in env._pool.chunk.envs.values()]
        assert all(np.array_equal(step["pixels"][row, 0], now[row]["pixels"]) for row in range(2))
        assert (step["pixels"] == end["pixels"]).all()


def test_images_received_are_kept_by_no_one_else():
    with VectorEnv(short_franka, seeds=[1], num_workers=0) as env:
        first = env.reset()
        kept = first.clone()
        env.send(torch.ones(1, 1, 9))
        env.recv()
    assert (first == kept).all()


def test_seeds_that_are_kept_keep_their_images(here):
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=0) as env:
        env.reset(SEEDS)
        for index, action in enumerate(ACTIONS):
            if index == 2:
                env.keep([1])
            env.send(action if index < 2 else action[[1]])
            step = env.recv()
            assert (step == (here[index + 1] if index < 2 else here[index + 1][[1]])).all()


def test_resumed_environments_show_what_they_showed():
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=0) as env:
        env.reset()
        for action in ACTIONS[:2]:
            env.send(action)
            step = env.recv()
        env.reset()
        again = env.resume(torch.zeros(2, 1, dtype=torch.int64), [[ACTIONS[:2, row, 0]] for row in range(2)])
        assert all((again[key] == step[key]).all() for key in ("observation", "pixels", "depth"))


def allocated(function):
    """Bytes that lay about at once, at most, while `function` ran; numpy's arrays count."""
    tracemalloc.start()
    function()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_an_image_is_copied_twice_between_gl_and_the_encoder():
    # First, turned upside down, from the buffer that GL is read into to the shared memory; second, to a fresh tensor.
    spec = PixelSpec(("left_cam",), 256, 256, "fast")
    size = 256 * 256 * 3
    with VectorEnv(FRANKA, seeds=[1, 2, 3], num_workers=0, pixels=spec) as env:
        env.reset()
        env.send(torch.zeros(3, 1, 9))
        env.recv()
        single = env._pool.chunk.envs[0]
        # One, into what is there.
        assert allocated(lambda: single.render(env._pool.arrays.pixels[0])) < 0.1 * size
        env.send(torch.zeros(3, 1, 9))
        env._pool.wait()
        env._pool.todo = ("keep", [1, 1, 1])  # does nothing: what is left of recv() is the parent's part
        assert 3 * size <= allocated(env.recv) < 3.2 * size  # one for each of the three


def test_next_images_are_the_same_memory_where_no_episode_ended(here):
    assert here[1]["pixels"].data_ptr() == here[1]["next", "pixels"].data_ptr()
    assert here[3]["pixels"].data_ptr() != here[3]["next", "pixels"].data_ptr()


def test_worker_draws_without_torch():
    with VectorEnv("FrankaReachRandom_vr3m18-v0", seeds=[1], num_workers=1) as env:
        assert env.spec.pixels == PixelSpec(("left_cam", "right_cam", "top_cam"), 224, 224)
        assert env.reset()["pixels"].float().std() > 10
        maps = Path(f"/proc/{env._pool.workers[0].process.pid}/maps").read_text()
    assert "libEGL" in maps and "libtorch" not in maps


def test_more_processes_than_may_draw_are_refused():
    with pytest.raises(ValueError, match="num_workers=3 would open 3 GL contexts, more than max_renderers=2"):
        VectorEnv("FrankaReachRandom_v2d-v0", seeds=[1], num_workers=3, max_renderers=2)


def test_pixels_of_a_factory_are_its_own():
    with pytest.raises(ValueError, match="a factory must set its own images"):
        VectorEnv(short_franka, seeds=[1], pixels=PIXELS)


@pytest.mark.parametrize("factory", [short_franka, Slow])
def test_worker_that_stops_answering_is_an_error_and_not_a_hang(factory):
    with VectorEnv(factory, seeds=[3, 4], num_workers=2, timeout=60.0) as env:
        env.reset()
        env._pool.timeout = 1.5  # to build them takes longer
        stopped = env._pool.workers[1].process.pid
        os.kill(stopped, signal.SIGSTOP)
        start = time.perf_counter()
        env.send(torch.zeros(2, 1, env.spec.action_dim))
        name = factory.__name__
        with pytest.raises(RuntimeError, match=rf"{name}, seeds \[4\], has not answered for 1.5 s") as caught:
            env.recv()
        assert 1.4 < time.perf_counter() - start < 15
        assert "\n" not in str(caught.value) and "rlhive.doctor" in str(caught.value)
        assert not Path(f"/proc/{stopped}").exists()


def test_image_spec_of_a_plain_id_is_part_of_its_spec():
    env = RoboHive(FRANKA, pixels=PIXELS)
    assert env.spec.pixels == PIXELS
    assert env.spec.observation_keys == RoboHive(FRANKA).spec.observation_keys


def test_frames_are_the_images_before_in_the_episode():
    with VectorEnv(stacked_franka, seeds=[1], num_workers=0) as env:
        trace = [env.reset(), *steps(env, ACTIONS[:, :1])]
    single = short_franka()
    single.reset(episode_seed((1, 0), 0))
    history = [single.images()["pixels"]]
    for index in range(3):  # the third ends the episode
        stacked = trace[index]["pixels"][0, 0].numpy()
        padded = [history[0]] * (3 - len(history)) + history[-3:]
        assert stacked.shape[-1] == 9 and np.array_equal(stacked, np.concatenate(padded, axis=-1))
        single.step(ACTIONS[index, 0, 0].numpy())
        history.append(single.images()["pixels"])
    single.close()
    last = trace[3]["next", "pixels"][0, 0].numpy()
    assert np.array_equal(last, np.concatenate(history[-3:], axis=-1))
    first = trace[3]["pixels"][0, 0].numpy()  # of the next episode
    assert np.array_equal(first[..., :3], first[..., 6:]) and not np.array_equal(first, last)


def test_frames_are_found_again():
    with VectorEnv(stacked_franka, seeds=[1], num_workers=0) as env:
        env.reset()
        *_, before, after = steps(env, ACTIONS[:5, :1])
    with VectorEnv(stacked_franka, seeds=[1], num_workers=0) as env:
        found = env.resume(torch.tensor([[1]]), [[ACTIONS[3:4, 0, 0]]])
        assert torch.equal(found["pixels"], before["pixels"])
        assert torch.equal(next(steps(env, ACTIONS[4:5, :1]))["pixels"], after["pixels"])


def test_frames_that_nobody_drew_are_left_out():
    """Neither of the episode before, nor what happened to be in memory."""
    env = RoboHive(FRANKA, pixels=attrs.evolve(PIXELS, frames=3))
    try:
        action = np.ones(env.spec.action_dim, np.float32)
        for seed in (0, 1):
            env.reset(seed)
            for _ in range(3):
                env.step(action)
            first, again = env.render(), env.render()
            newest = first[..., -3:]
            assert (first == np.concatenate([newest] * 3, axis=-1)).all() and (again == first).all()
            env.step(-action)
            second = env.render()
            assert (second[..., :6] == first[..., 3:]).all() and (second[..., 6:] != newest).any()
    finally:
        env.close()


def steps(env, actions):
    for action in actions:
        env.send(action)
        yield env.recv()
