"""What environments refuse, in one line and before anything is stepped."""

import copy
import multiprocessing
import pickle
import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
from torchrl.envs import ParallelEnv, SerialEnv

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import RoboHive, VectorEnv, make
from rlhive.envs.pixels import choose_pixels
from tests.envs.toy import ReachPoint

NAME = "FrankaReachRandom-v0"


@pytest.fixture(scope="module")
def robohive_env():
    env = RoboHive(NAME, seed=0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def torchrl_env():
    env = make(NAME, seed=0)
    yield env
    env.close()


@pytest.mark.parametrize(
    ("build", "duplicate"),
    [
        ("robohive", copy.copy),
        *((build, copied) for build in ("robohive", "torchrl") for copied in (copy.deepcopy, pickle.dumps)),
    ],
)
def test_an_environment_is_neither_copied_nor_pickled(build, duplicate, request):
    with pytest.raises(TypeError, match=f"{NAME} cannot be copied or pickled: make another"):
        duplicate(request.getfixturevalue(f"{build}_env"))


@pytest.mark.parametrize("batched", [SerialEnv, pytest.param(ParallelEnv, marks=pytest.mark.slow)])  # 19 s
def test_torchrl_builds_many_from_a_function(batched):
    env = batched(2, partial(make, NAME))
    env.set_seed(4)
    assert env.rollout(60, break_when_any_done=False)["next", "reward"].shape == (2, 60, 1)
    env.close()


@pytest.mark.parametrize(
    ("action", "got"),
    [
        (np.ones(1), [1]),
        (np.float32(1.0), []),
        (np.ones(10), [10]),
        (np.ones(8), [8]),
        (np.ones((1, 9)), [1, 9]),
    ],
)
def test_an_action_of_another_shape_is_refused_before_the_step(action, got, robohive_env):
    robohive_env.reset()
    with pytest.raises(ValueError) as caught:
        robohive_env.step(action)
    assert str(caught.value) == f"{NAME}: the action must have shape [9], got {got}"
    assert robohive_env.env.sim.data.time == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_torchrl_takes_actions_of_any_type_and_graph(dtype, torchrl_env):
    env = torchrl_env
    plain, other = torch.ones(9), torch.ones(9, dtype=dtype)
    if dtype.is_floating_point:
        other.requires_grad_()
    rewards = []
    for action in (plain, other):
        env.set_seed(0)
        rewards.append(env.step(env.reset().set("action", action))["next", "reward"])
    assert torch.equal(*rewards) and not rewards[1].requires_grad


def test_torchrl_resets_the_whole_environment_or_refuses(torchrl_env):
    env = torchrl_env
    seen = env.step(env.reset().set("action", torch.ones(9)))["next"]
    with pytest.raises(RuntimeError, match=f'{NAME} is one environment.*"_reset"'):
        env.reset(seen.clone().set("_reset", torch.tensor([False])))
    assert env._env._elapsed == 1
    assert not torch.equal(
        env.reset(seen.clone().set("_reset", torch.tensor([True])))["observation"], seen["observation"]
    )


def test_a_closed_environment_says_so():
    env = RoboHive(NAME, seed=0, pixels=PixelSpec(("top_cam",), 16, 16))
    env.close()
    env.close()
    for use in (
        env.reset,
        lambda: env.reset(0),
        lambda: env.step(np.zeros(9)),
        env.render,
        lambda: env.restore({}),
    ):
        with pytest.raises(RuntimeError, match=f"{NAME}: the environment is closed"):
            use()


def test_a_closed_environment_of_torchrl_says_so():
    env = make(NAME, seed=0)
    first = env.reset()
    env.close()
    for use in (env.reset, lambda: env.step(first.set("action", torch.zeros(9))), lambda: env.rollout(2)):
        with pytest.raises(RuntimeError, match=f"{NAME}: the environment is closed"):
            use()


@pytest.mark.parametrize("name", [None, 3])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(ValueError, match=f"the id of an environment must be text, .*got {name}"):
        make(name)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_seed_that_is_none_is_refused_at_once(seed, robohive_env):
    message = f"a seed must be a whole number >= 0, got {seed!r}"
    for build in (make, RoboHive):
        with pytest.raises(ValueError, match=message):
            build(NAME, seed=seed)
    with pytest.raises(ValueError, match=message):
        robohive_env.reset(seed)


@pytest.mark.parametrize("image_size", [32.5, (32, 1.5), "32", (32,), ()])
def test_an_image_size_of_another_type_is_refused(image_size):
    with pytest.raises(ValueError, match="image_size must be one number or a height and a width, got"):
        choose_pixels(NAME, from_pixels=True, cameras=["top_cam"], image_size=image_size)


@pytest.mark.parametrize("seed", [1.7, "1", -1, None])
def test_many_environments_need_whole_seeds(seed):
    message = f"a seed must be a whole number >= 0, got {seed!r}"
    with pytest.raises(ValueError, match=message):
        VectorEnv(NAME, seeds=[1, seed])
    with VectorEnv(ReachPoint, seeds=[1, 2], num_workers=0) as env:
        with pytest.raises(ValueError, match=message):
            env.reset([[0], [seed]])
        env.reset([[0], [np.uint64(1)]])


@pytest.mark.parametrize("seeds", [[], 1])
def test_many_environments_need_a_list_of_seeds(seeds):
    with pytest.raises(ValueError, match="VectorEnv needs a list of one seed or more"):
        VectorEnv(NAME, seeds=seeds)


def test_seeds_may_be_an_array():
    with VectorEnv(NAME, seeds=np.array([1, 2]), num_workers=0) as env:
        assert env.shape == (2, 1)


def test_a_program_that_its_workers_cannot_import_is_told_what_to_do(monkeypatch):
    def refused(factory):
        with pytest.raises(ValueError) as caught:
            VectorEnv(factory, seeds=[1], num_workers=1)
        assert "num_workers=0" in str(caught.value)
        return str(caught.value)

    class Here(ReachPoint):
        __module__ = "__main__"

    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)  # of a notebook or python -c
    for factory in (Here, partial(Here)):
        assert (
            "cannot be sent to worker processes: give a function or class at the top of a module"
            in refused(factory)
        )
    main.__file__ = "<stdin>"
    assert "keep it in a file" in refused(ReachPoint)
    # While it is imported.
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    assert "under `if __name__ == '__main__':`" in refused(ReachPoint)


def test_a_process_that_may_have_none_of_its_own_is_told_so(monkeypatch):
    # As in a multiprocessing.Pool.
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(
        ValueError, match=r"daemonic, as those of multiprocessing\.Pool are.*num_workers=0, or"
    ):
        VectorEnv(NAME, seeds=[1], num_workers=1)
