"""A training run: what it holds, how it starts, is saved and goes on, and how single seeds leave it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import torch
from tensordict import TensorDict

from rlhive.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhive.core.files import write_text
from rlhive.core.keys import make_generators
from rlhive.core.learner import Learner, make_learner
from rlhive.core.replay import ReplayBuffer
from rlhive.core.replay_size import check_replay
from rlhive.core.rollout import first_rollout, resume_rollout
from rlhive.core.run_spec import RunSpec, new_run_spec
from rlhive.core.tree import stack_seeds
from rlhive.core.tree_file import LoadError
from rlhive.core.types import TrainState
from rlhive.envs.encoded import EncodedEnv
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.encoders import Encoder
from rlhive.policy_fn.exploration import Exploration
from rlhive.record import Recorder

if TYPE_CHECKING:
    from rlhive.config import TrainConfig

EVALUATION_ENVS = 4
NOT_FINITE, TARGET_MET = "not finite", "target met"  # why a seed stopped before the others


class Stopped(NamedTuple):
    """A seed that no longer trains: its last good state, rollout and generators, when it stopped, and why."""

    state: TrainState
    rollout: TensorDict
    generators: Mapping[str, torch.Generator]
    step: int
    reason: str


@attrs.define
class Run:
    """What a run holds; all but `config`, `spec` and the functions changes while it goes on.

    Attributes:
        config: the resolved configuration.
        run_dir: where everything is written.
        spec: what a policy of this run needs.
        learner: the run's functions.
        explore: the exploration's functions.
        envs: the training environments `[S, E]`.
        evaluation_envs: those of the evaluations.
        replay: the transitions.
        recorder: metrics.csv and loggers.
        seeds: the S seeds that train.
        generators: one dict of streams for each of them.
        state: their train state `[S]`.
        rollout: where their environments are, `[S]`, see `rlhive.core.rollout`.
        stopped: the seeds that no longer train.
        step: environment steps per seed so far.
    """

    config: TrainConfig
    run_dir: Path
    spec: RunSpec
    learner: Learner
    explore: Exploration
    envs: VectorEnv | EncodedEnv
    evaluation_envs: VectorEnv | EncodedEnv
    replay: ReplayBuffer
    recorder: Recorder
    seeds: tuple[int, ...]
    generators: list[dict[str, torch.Generator]]
    state: TrainState
    rollout: TensorDict
    stopped: dict[int, Stopped]
    step: int


@contextlib.contextmanager
def open_run(
    config: TrainConfig, run_dir: Path, *, resume: bool = False, joins: RunSpec | None = None
) -> Iterator[Run]:
    """Starts workers, networks, replay and recorder of a new run, or of one that is resumed; closes them at the end.

    Args:
        config: the resolved configuration.
        run_dir: an existing directory; that of the run to resume.
        resume: continue from the latest checkpoint, as if the run had never stopped.
        joins: the spec of the run that this one is to become a part of.

    Raises:
        LoadError: the run to resume or to join is of another environment, algorithm or network, its files are
            damaged, or none of its seeds is left to train.
    """
    checkpoint = load_checkpoint(run_dir, config.seeds) if resume else None
    generators = [make_generators(seed) for seed in config.seeds]
    stopped = _restore_stopped(config, checkpoint, generators) if checkpoint else {}
    seeds = tuple(seed for seed in config.seeds if seed not in stopped)
    if not seeds:
        raise LoadError(f"{run_dir}: none of its seeds is left to train: {stopped_text(stopped)}")
    generators = [own for seed, own in zip(config.seeds, generators, strict=True) if seed not in stopped]
    with contextlib.ExitStack() as stack:
        encoder = config.make_encoder()
        envs, evaluation_envs = _start_envs(config, seeds, encoder)
        stack.callback(envs.close)
        stack.callback(evaluation_envs.close)
        learner = make_learner(config, envs.spec, encoder)
        spec = new_run_spec(config.algorithm, envs.spec, learner.network, config.seeds, encoder)
        if origin := checkpoint.spec if checkpoint else joins:
            spec = _check_same(run_dir, origin, spec)
        if checkpoint:
            training = [config.seeds.index(seed) for seed in seeds]
            state = checkpoint.state[training].to(config.device)
        else:
            state = learner.init(generators)
            write_text(run_dir / "spec.json", spec.to_json())
        step = checkpoint.step if checkpoint else 0
        replay = config.make_replay(num_seeds=len(seeds), num_envs=config.num_envs, device=config.device)
        check_replay(replay, config, spec)
        explore = config.exploration(envs.spec.action_low, envs.spec.action_high)
        if checkpoint:
            _load_replay(replay, run_dir, step)
            rollout = resume_rollout(envs, replay, checkpoint.rollout[training])
        else:
            rollout = first_rollout(envs, explore)
        recorder = Recorder(
            run_dir, loggers=config.loggers, wandb=config.wandb, resume_step=step if resume else None
        )
        yield Run(
            config=config,
            run_dir=run_dir,
            spec=spec,
            learner=learner,
            explore=explore,
            envs=envs,
            evaluation_envs=evaluation_envs,
            replay=replay,
            recorder=stack.enter_context(recorder),
            seeds=seeds,
            generators=generators,
            state=state,
            rollout=rollout,
            stopped=stopped,
            step=step,
        )


def stop_seeds(run: Run, reasons: Mapping[int, str], states: Mapping[int, TrainState]) -> list[int]:
    """Takes seeds out of the run; the others go on as if these had never been there.

    Args:
        run: the run, between two steps of its environments.
        reasons: why each of the seeds stops.
        states: the states to keep of them, where those of the run are not good.

    Returns:
        The indices, in the `[S]` before, of the seeds that go on.
    """
    for seed, reason in reasons.items():
        index = run.seeds.index(seed)
        state = states.get(seed, run.state[index])
        run.stopped[seed] = Stopped(state, run.rollout[index], run.generators[index], run.step, reason)
    kept = [index for index, seed in enumerate(run.seeds) if seed not in reasons]
    run.seeds = tuple(run.seeds[index] for index in kept)
    run.generators = [run.generators[index] for index in kept]
    if kept:
        run.state, run.rollout = run.state[kept], run.rollout[kept]
        for part in (run.envs, run.evaluation_envs, run.replay):
            part.keep(kept)
    return kept


def stopped_text(stopped: Mapping[int, Stopped]) -> str:
    """Which seeds stopped, when and why, in one line."""
    return ", ".join(f"seed {seed} at step {one.step} ({one.reason})" for seed, one in stopped.items())


def save_run(run: Run) -> None:
    """Writes the replay of this step, then the checkpoint, then drops older replays: never a checkpoint without."""
    folder = run.run_dir / "replay"
    folder.mkdir(exist_ok=True)
    run.replay.save(_replay_path(run.run_dir, run.step))
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
        rollout=stack_seeds([rollout.select("explore", "episodes") for rollout in rollouts]),
        generators={name: [own[name] for own in generators] for name in generators[0]},
        counters=[_counters(run.stopped.get(seed)) for seed in run.config.seeds],
    )
    for path in folder.glob("*.safetensors"):
        if path != _replay_path(run.run_dir, run.step):
            path.unlink()


def _start_envs(
    config: TrainConfig, seeds: Sequence[int], encoder: Encoder | None
) -> tuple[VectorEnv | EncodedEnv, ...]:
    """Those of training and of evaluation; their workers start at the same time, as each takes seconds."""

    def start(num_envs: int) -> VectorEnv:
        return VectorEnv(
            config.env_name,
            seeds=seeds,
            num_envs=num_envs,
            num_workers=config.num_workers,
            pixels=config.pixels,
        )

    with ThreadPoolExecutor() as threads:
        futures = [threads.submit(start, num_envs) for num_envs in (config.num_envs, EVALUATION_ENVS)]
    for future in futures:
        if future.exception() is not None:
            for other in futures:
                if other.exception() is None:
                    other.result().close()
            future.result()
    envs = tuple(future.result() for future in futures)
    if encoder is None or not encoder.frozen:
        return envs
    params = encoder.init(torch.Generator()).to(config.device)
    return tuple(EncodedEnv(vector, encoder, params) for vector in envs)


def _counters(stopped: Stopped | None) -> dict[str, Any]:
    return {} if stopped is None else {"stopped_at": stopped.step, "reason": stopped.reason}


def _restore_stopped(
    config: TrainConfig, checkpoint: Checkpoint, generators: Sequence[dict[str, torch.Generator]]
) -> dict[int, Stopped]:
    """Sets all generators to where they were; the seeds that stopped before the checkpoint."""
    stopped = {}
    for index, (seed, counters) in enumerate(zip(config.seeds, checkpoint.counters, strict=True)):
        for name, states in checkpoint.generators.items():
            generators[index][name].set_state(states[index])
        if "stopped_at" in counters:
            stopped[seed] = Stopped(
                checkpoint.state[index],
                checkpoint.rollout[index],
                generators[index],
                counters["stopped_at"],
                counters["reason"],
            )
    return stopped


def _check_same(run_dir: Path, saved: RunSpec, now: RunSpec) -> RunSpec:
    for name in ("algorithm", "env", "encoder", "network"):
        if getattr(saved, name) != getattr(now, name):
            difference = _difference(getattr(saved, name), getattr(now, name))
            raise LoadError(f"{run_dir}: cannot be resumed with another {name}: {difference}")
    return saved


def _difference(saved: Any, now: Any) -> str:
    if not attrs.has(type(saved)):
        return f"{saved!r} there, {now!r} in the configuration"
    pairs = {name: (getattr(saved, name), getattr(now, name)) for name in attrs.fields_dict(type(saved))}
    return "; ".join(f"{name} is {_difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1])


def _load_replay(replay: ReplayBuffer, run_dir: Path, step: int) -> None:
    try:
        replay.load(_replay_path(run_dir, step))
    except (ValueError, OSError) as error:
        raise LoadError(f"{run_dir}: its replay cannot be read: {error}") from None


def _replay_path(run_dir: Path, step: int) -> Path:
    return run_dir / "replay" / f"{step}.safetensors"
