"""Environment steps per second: physics alone, the path used in training, TorchRL's wrapper; one and two workers.

    uv run pytest benchmarks/test_env_benchmark.py -s

All of a comparison runs in one process, its parts in turn, round after round; the medians over the rounds count.
"""

import math
import os

import numpy as np
import pytest
import torch

from benchmarks.timing import in_turns
from rlhive.envs import RoboHive, VectorEnv
from rlhive.envs.chunk import episode_seed
from rlhive.envs.importing import quiet

NAME = "FrankaReachRandom-v0"
STEPS, ROUNDS, EPISODE, SEED = 300, 9, 50, 1


@pytest.fixture
def one_core():
    cores = os.sched_getaffinity(0)
    threads = torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.fixture
def actions():
    return np.random.default_rng(0).uniform(-1, 1, (STEPS, 9)).astype(np.float32)


def physics_only(actions):
    """Replays the controls and start states of a rollout through `mj_step` alone; returns the replay."""
    import mujoco

    env = RoboHive(NAME, seed=SEED)
    data, model = env.env.sim.data.ptr, env.env.sim.model.ptr
    starts, controls = [], []
    for step, action in enumerate(actions):
        if step % EPISODE == 0:
            env.reset()
            starts.append((data.qpos.copy(), data.qvel.copy()))
        env.step(action)
        controls.append(data.ctrl.copy())

    def replay():
        for step, control in enumerate(controls):
            if step % EPISODE == 0:
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = starts[step // EPISODE]
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=env.env.frame_skip)

    return replay


def collect(env, actions):
    """Steps `env` with `actions`; returns observations and rewards of the transitions."""
    rows = torch.from_numpy(actions).reshape(-1, *env.shape, env.spec.action_dim)
    following = []
    for row in rows:
        env.send(row)
        following.append(env.recv()["next"])
    return torch.stack([td["observation"] for td in following]), torch.stack(
        [td["reward"] for td in following]
    )


def random_steps(env, steps, generator):
    """Steps `env` as training does before it has learnt anything, with actions drawn at random."""
    shape = (*env.shape, env.spec.action_dim)
    for _ in range(steps // math.prod(env.shape)):
        env.send(2 * torch.rand(shape, generator=generator) - 1)
        env.recv()


def torchrl_env():
    with quiet():
        import robohive  # noqa: F401
        from torchrl.envs.libs.robohive import RoboHiveEnv

        return RoboHiveEnv(NAME)


def torchrl_episode(env, actions):
    queue = iter(torch.from_numpy(actions))
    return env.rollout(len(actions), policy=lambda td: td.set("action", next(queue)))


def assert_same_data(vector, torchrl, actions):
    vector.reset()
    observation, reward = collect(vector, actions)
    episodes = []
    for number, of_episode in enumerate(np.split(actions, len(actions) // EPISODE)):
        seed = episode_seed((SEED, 0), number)
        torchrl._env.unwrapped.np_random.bit_generator.state = np.random.PCG64(seed).state
        episodes.append(torchrl_episode(torchrl, of_episode))
    theirs = torch.cat(episodes)["next"]
    parts = [theirs[key].float() for key in vector.spec.observation_keys]
    assert torch.equal(torch.cat(parts, -1), observation.flatten(0, 2))
    assert torch.equal(theirs["reward"].float().flatten(), reward.flatten())


def report(benchmark, seconds, steps):
    rates = {name: round(steps / value) for name, value in seconds.items()}
    benchmark.extra_info["steps per second"] = rates
    print(f"\nsteps/s, {NAME}: " + ", ".join(f"{name} {rate}" for name, rate in rates.items()))


@pytest.mark.timeout(600)
def test_collection_against_physics_and_torchrl_on_one_core(benchmark, one_core, actions):
    torchrl, physics = torchrl_env(), physics_only(actions)
    generator = torch.Generator().manual_seed(0)
    with VectorEnv(NAME, seeds=[SEED]) as vector, VectorEnv(NAME, seeds=[SEED], num_envs=4) as vector_4:
        assert_same_data(vector, torchrl, actions)
        vector_4.reset()
        parts = {
            "physics": physics,
            "rlhive, 1 environment": lambda: random_steps(vector, STEPS, generator),
            "rlhive, 4 environments": lambda: random_steps(vector_4, STEPS, generator),
            "torchrl": lambda: [torchrl.rollout(EPISODE) for _ in range(STEPS // EPISODE)],
        }
        seconds = benchmark.pedantic(in_turns, args=(parts,), kwargs={"rounds": ROUNDS})
    report(benchmark, seconds, STEPS)
    assert seconds["physics"] / seconds["rlhive, 1 environment"] >= 0.55
    assert seconds["torchrl"] / seconds["rlhive, 1 environment"] >= 3.0
    assert seconds["torchrl"] / seconds["rlhive, 4 environments"] >= 3.0


@pytest.mark.timeout(600)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_two_workers_against_one(benchmark, actions):
    many = np.repeat(actions, 8, axis=0)
    first, second = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    with (
        VectorEnv(NAME, seeds=[SEED], num_envs=8, num_workers=1) as one,
        VectorEnv(NAME, seeds=[SEED], num_envs=8, num_workers=2) as two,
    ):
        assert bool((one.reset() == two.reset()).all())
        assert all(map(torch.equal, collect(one, many), collect(two, many)))
        parts = {
            "one worker": lambda: random_steps(one, len(many), first),
            "two workers": lambda: random_steps(two, len(many), second),
        }
        seconds = benchmark.pedantic(in_turns, args=(parts,), kwargs={"rounds": ROUNDS})
    report(benchmark, seconds, len(many))
    assert seconds["one worker"] / seconds["two workers"] >= 1.7
