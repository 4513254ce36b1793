"""A training run: its state, how it is started or resumed, and how it is saved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.env_spec import EnvSpec
from rlhive.core.files import write_text
from rlhive.core.keys import make_generators
from rlhive.core.replay import ReplayBuffer
from rlhive.core.tree import stack_seeds
from rlhive.core.types import TrainState
from rlhive.data.dataset import Dataset
from rlhive.envs.vector import VectorEnv
from rlhive.metrics import Recorder
from rlhive.policy_fn.encoders import Encoder
from rlhive.policy_fn.exploration import Exploration
from rlhive.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhive.runs.run_files import SPEC_FILE, drop_other_replays, read_usage, replay_path
from rlhive.runs.run_spec import RunSpec, new_run_spec
from rlhive.training.encoded_env import EncodedEnv
from rlhive.training.init_from import latest_of
from rlhive.training.learner import Learner, make_learner
from rlhive.training.replay_size import check_replay
from rlhive.training.resume import (
    check_same,
    check_state,
    load_replay,
    replay_origin,
    restore_metrics,
)
from rlhive.training.rollout import SAVED, SEEN, count_step, first_rollout, resume_rollout
from rlhive.training.start import first_state, open_dataset, open_envs, seeds_to_train, source_of
from rlhive.training.stop import Stopped
from rlhive.training.usage import record_usage

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig


@attrs.define(kw_only=True)
class Run:
    """The state of a run; everything but `config`, `spec` and the functions changes while it trains.

    Attributes:
        config: the resolved configuration.
        run_dir: the directory of everything it writes.
        spec: what a policy of this run needs.
        learner: the run's functions.
        evaluation_envs: the environments of the evaluations.
        recorder: metrics.csv and loggers.
        seeds: the S seeds that train.
        generators: one dict of streams for each of them.
        state: their train state `[S]`.
        rollout: the state of their training environments `[S]`, see `rlhive.training.rollout`; empty offline.
        stopped: the seeds that no longer train.
        step: environment steps per seed so far; offline, gradient updates.
        metrics: the metrics `[S]` of the latest update by their names in the logs; empty before the first.
        dataset: recorded transitions to learn from; None where there are none.
        started: when it would have begun, by `time.monotonic()`, without interruptions.
    """

    config: TrainConfig
    run_dir: Path
    spec: RunSpec
    learner: Learner
    evaluation_envs: VectorEnv | EncodedEnv
    recorder: Recorder
    seeds: tuple[int, ...]
    generators: list[dict[str, torch.Generator]]
    state: TrainState
    rollout: TensorDict
    stopped: dict[int, Stopped]
    step: int
    metrics: dict[str, Tensor]
    dataset: Dataset | None
    started: float

    def keep(self, indices: list[int]) -> None:
        """Keeps only the seeds at `indices` of `[S]`."""
        self.seeds = tuple(self.seeds[index] for index in indices)
        self.generators = [self.generators[index] for index in indices]
        self.state, self.rollout = self.state[indices], self.rollout[indices]
        self.metrics = {name: value[indices] for name, value in self.metrics.items()}
        self.evaluation_envs.keep(indices)

    def store_step(self) -> None:
        """Does nothing: offline no environment steps."""


@attrs.define(kw_only=True)
class OnlineRun(Run):
    """A run that learns from its own steps.

    Attributes:
        explore: the exploration's functions.
        envs: the training environments `[S, E]`.
        replay: the transitions.
        acted_with: the state `[S]` by which the policy last acted, before the updates since; the present state before
            its first action, also after a resume.
        unstored: the last step of the environments `[S, E]`, until `store_step` puts it into the replay.
    """

    explore: Exploration
    envs: VectorEnv | EncodedEnv
    replay: ReplayBuffer
    acted_with: TrainState
    unstored: TensorDict | None = None

    def keep(self, indices: list[int]) -> None:
        """Keeps only the seeds at `indices` of `[S]`; their last step must be stored."""
        super().keep(indices)
        self.envs.keep(indices)
        self.replay.keep(indices)
        self.acted_with = self.acted_with[indices]

    def store_step(self) -> None:
        """Adds the last step of the environments to the replay and to the count of episodes, if not yet done.

        A training step leaves this to the next one, which does it while the workers step.
        """
        if self.unstored is None:
            return
        transition, self.unstored = self.unstored, None
        following = transition["next"]
        stored = {
            **transition.select(*SEEN, "action", strict=False),
            "next": following.select(*SEEN, "reward", "terminated", "done", strict=False),
        }
        self.replay.extend(TensorDict(stored, transition.batch_size))
        self.rollout["episodes"] = count_step(self.rollout["episodes"], following)


@contextlib.contextmanager
def open_run(
    config: TrainConfig, run_dir: Path, *, resume: bool = False, joins: RunSpec | None = None
) -> Iterator[Run]:
    """Starts workers, networks, data and recorder of a new or resumed run; closes them at the end.

    Args:
        config: the resolved configuration.
        run_dir: an existing directory; to resume, that of the run.
        resume: continue from the latest checkpoint, as if the run had never stopped.
        joins: the spec of the run that this one will be merged into.

    Raises:
        LoadError: the run to resume or to join is of another environment, algorithm, network or data set, files are
            damaged, the data set does not fit, or none of its seeds is left to train.
    """
    started = time.monotonic() - read_usage(run_dir).get("seconds", 0.0)
    checkpoint = load_checkpoint(run_dir, config.seeds) if resume else None
    seeds, generators, stopped = seeds_to_train(config, run_dir, checkpoint)
    with contextlib.ExitStack() as stack:
        encoder = config.make_encoder()
        evaluation_envs, training_envs = open_envs(config, seeds, encoder, stack)
        env = evaluation_envs.spec
        learner = make_learner(config, env, encoder)
        dataset = open_dataset(config, env, encoder)
        before = checkpoint.spec if checkpoint else joins
        spec = _make_spec(config, run_dir, env, encoder, learner, dataset, before)
        if checkpoint:
            state = checkpoint.state[[config.seeds.index(seed) for seed in seeds]].to(config.device)
            fresh = learner.init([make_generators(seeds[0])])
            check_state(run_dir, "train.optimizer", state[0]["opt_state"], fresh[0]["opt_state"])
        else:
            state = first_state(config, learner, generators, spec, seeds, dataset)
            write_text(run_dir / SPEC_FILE, spec.to_json())
        kind: type[Run] = Run
        parts: dict[str, Any] = {"rollout": TensorDict({}, [len(seeds)])}
        if training_envs is not None:
            kind = OnlineRun
            parts = _online_parts(config, run_dir, training_envs, seeds, spec, state, checkpoint)
            stack.callback(parts["replay"].close)
        recorder = Recorder(
            run_dir,
            loggers=config.loggers,
            wandb=config.wandb,
            resume_step=checkpoint.step if checkpoint else None,
            log_common=joins is None,
        )
        yield kind(
            config=config,
            run_dir=run_dir,
            spec=spec,
            learner=learner,
            evaluation_envs=evaluation_envs,
            recorder=stack.enter_context(recorder),
            seeds=seeds,
            generators=generators,
            state=state,
            stopped=stopped,
            step=checkpoint.step if checkpoint else 0,
            metrics=restore_metrics(checkpoint) if checkpoint else {},
            dataset=dataset,
            started=started,
            **parts,
        )


def _make_spec(
    config: TrainConfig,
    run_dir: Path,
    env: EnvSpec,
    encoder: Encoder | None,
    learner: Learner,
    dataset: Dataset | None,
    before: RunSpec | None,
) -> RunSpec:
    """The spec of a new run; to resume or join a run, that run's own, which must be the same."""
    source = None if dataset is None else source_of(dataset)
    origin = None if before or config.init_from is None else latest_of(config.init_from)
    spec = new_run_spec(config.algorithm, env, learner.network, encoder, source, origin)
    return check_same(run_dir, before, spec) if before else spec


def _online_parts(
    config: TrainConfig,
    run_dir: Path,
    envs: VectorEnv | EncodedEnv,
    seeds: Sequence[int],
    spec: RunSpec,
    state: TrainState,
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """The fields that only an `OnlineRun` has, and the state of its environments."""
    replay = config.make_replay(
        num_seeds=len(seeds),
        num_envs=config.num_envs,
        device=config.device,
        total_steps=config.total_steps,
    )
    check_replay(replay, config, spec)
    explore = config.exploration(envs.spec.action_low, envs.spec.action_high)
    if checkpoint:
        load_replay(replay, run_dir, checkpoint, seeds)
        saved = checkpoint.rollout[[config.seeds.index(seed) for seed in seeds]]
        check_state(run_dir, "train.exploration", saved["explore"], explore.init(envs.shape))
        rollout = resume_rollout(envs, replay, saved)
    else:
        rollout = first_rollout(envs, explore, state["env_state"])
    return {"explore": explore, "envs": envs, "replay": replay, "acted_with": state, "rollout": rollout}


def save_run(run: Run, *, with_replay: bool = True) -> None:
    """Writes the replay of this step, then the checkpoint, then drops older replays, so each checkpoint has one.

    Also writes the time and memory used so far.

    Args:
        run: the run.
        with_replay: False if this step was saved before: that replay has all transitions, also of seeds that stopped
            since, which the previous checkpoint may need.
    """
    run.store_step()
    if isinstance(run, OnlineRun) and with_replay:
        path = replay_path(run.run_dir, run.step)
        path.parent.mkdir(exist_ok=True)
        run.replay.save(path, run.seeds, replay_origin(run.spec, run.step))
    training = {
        seed: (run.state[index], run.rollout[index], run.generators[index])
        for index, seed in enumerate(run.seeds)
    }
    parts = [training.get(seed) or run.stopped[seed][:3] for seed in run.config.seeds]
    states, rollouts, generators = zip(*parts, strict=True)
    save_checkpoint(
        run.run_dir,
        run.step,
        stack_seeds([state.cpu() for state in states]),
        run.spec,
        seeds=run.config.seeds,
        rollout=stack_seeds([rollout.select(*SAVED, strict=False) for rollout in rollouts]),
        generators={name: [own[name] for own in generators] for name in generators[0]},
        progress=[_progress(run, seed) for seed in run.config.seeds],
    )
    drop_other_replays(run.run_dir, run.step)
    record_usage(run)


def _progress(run: Run, seed: int) -> dict[str, Any]:
    """What a checkpoint records of a seed beside its trees: how it stopped, or the metrics of its latest update."""
    if seed in run.stopped:
        return {"stopped_at": run.stopped[seed].step, "reason": run.stopped[seed].reason}
    index = run.seeds.index(seed)
    return {"metrics": {name: value[index].item() for name, value in run.metrics.items()}}
