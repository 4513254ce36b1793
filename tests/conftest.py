"""Runs as the training loop leaves them, made without training: real states, real files."""

from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: on small matrices more threads only get in each
# other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict
from torch.func import vmap

import gin
from rlhive.command import collect_less_often
from rlhive.core.env_spec import EnvSpec
from rlhive.core.normalizer import update_normalizer
from rlhive.core.optim import adam
from rlhive.core.train_step import init_state, make_train_step
from rlhive.core.tree import stack_seeds
from rlhive.core.types import TrainState
from rlhive.envs import simhive
from rlhive.losses_fn import draw_sac_noise, make_sac_loss
from rlhive.policy_fn.actor import ActorCritic, actor_critic
from rlhive.report import write
from rlhive.runs.checkpoint import save_checkpoint
from rlhive.runs.run_spec import RunSpec, new_run_spec
from tests.helpers import make_batch

collect_less_often()
# Tests send these; run in the background or by nohup they, and the processes they start, would be born ignoring them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
gc.freeze()  # or every environment that is closed has all that was imported looked through, for half a second

FRANKA = EnvSpec(
    name="FrankaReachRandom-v0",
    observation_keys=("qp_robot", "qv_robot", "reach_err"),
    observation_slices=((0, 9), (9, 18), (18, 21)),
    observation_dim=21,
    action_dim=9,
    action_low=(-1.0,) * 9,
    action_high=(1.0,) * 9,
    action_names=tuple(f"actuator{index}" for index in range(9)),
    dt=0.08,
    max_episode_steps=50,
)


class Run(NamedTuple):
    """A run on disk, and the state that was saved there."""

    run_dir: Path
    state: TrainState
    spec: RunSpec
    seeds: tuple[int, ...]
    generators: dict[str, list[torch.Generator]]


@pytest.fixture(scope="session", autouse=True)
def robot_models() -> None:
    """Installs SimHive where it is not, so that no test meets the messages of that."""
    simhive.ensure()


@pytest.fixture(scope="session", autouse=True)
def pictures() -> Iterator[None]:
    """Draws an environment once for the reports of all runs trained here: each time takes a process of some seconds.

    tests/report/test_report.py has the command draw.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "render", functools.cache(write.render))
        yield


@pytest.fixture(autouse=True)
def clear_gin() -> Iterator[None]:
    """Leaves no binding to the next test."""
    yield
    gin.clear_config()


@pytest.fixture
def franka_spec() -> EnvSpec:
    return FRANKA


def make_rollout(seeds: Sequence[int], state: TrainState) -> TensorDict:
    """Where the environments `[S]` of these states `[S]` might be."""
    return TensorDict(
        {
            "episodes": {"number": torch.tensor(seeds)},
            "normalizer": state["env_state", "observation"].double(),
        },
        batch_size=[len(seeds)],
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """`make_run(name="run", seeds=(1,), env=FRANKA, algorithm="sac")`: one checkpoint, at step 100, of two updates."""

    def make(
        name: str = "run", seeds: Sequence[int] = (1,), env: EnvSpec = FRANKA, algorithm: str = "sac"
    ) -> Run:
        network = actor_critic(env, hidden_sizes=(32, 32))
        state = trained_state(network, seeds)
        spec = new_run_spec(algorithm, env, network)
        generators = {"replay": [torch.Generator().manual_seed(seed) for seed in seeds]}
        save_checkpoint(
            tmp_path / name,
            100,
            state,
            spec,
            seeds=seeds,
            rollout=make_rollout(seeds, state),
            generators=generators,
            progress=[{"episodes": 7}] * len(seeds),
        )
        return Run(tmp_path / name, state, spec, tuple(seeds), generators)

    return make


def trained_state(network: ActorCritic, seeds: Sequence[int]) -> TrainState:
    """The state `[S]` after a few observations and two updates on random data."""
    opt = adam(1e-3)
    state = stack_seeds([_initial_state(network, opt, seed) for seed in seeds])
    train_step = vmap(make_train_step(make_sac_loss(network), opt))
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(2):
        batch = stack_seeds(
            [make_batch(draw, 16, network.observation_dim, network.action_dim) for draw in draws]
        )
        noise = stack_seeds([draw_sac_noise(generator, network, 16) for generator in draws])
        state, _ = train_step(state, batch, noise)
    return state


def _initial_state(network: ActorCritic, opt, seed: int) -> TrainState:
    generator = torch.Generator().manual_seed(seed)
    dim = network.observation_dim
    state = init_state(network.init(generator), opt, observation_dim=dim, target_keys=("critic",))
    observation = 0.5 + 2.0 * torch.randn(64, dim, generator=generator)
    normalizer = update_normalizer(state["env_state", "observation"], observation)
    return state.set("env_state", TensorDict({"observation": normalizer}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was skipped is a failure, except for those of a GPU on a machine without one."""
    gc.unfreeze()  # so that nothing is left when Python ends
    if not os.environ.get("CI") or hasattr(session.config, "workerinput"):  # the process that reports looks
        return
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if not torch.cuda.is_available():  # a file that skips itself as a whole has no keywords
        skipped = [report for report in skipped if "gpu" not in getattr(report, "keywords", ())]
    if skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
