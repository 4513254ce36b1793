"""The training run: environments step in workers while the learner updates; metrics, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.checkpoint import load_checkpoint, save_checkpoint
from rlhive.core.episode_tracker import EpisodeTracker
from rlhive.core.evaluation import evaluation_seeds, run_episodes
from rlhive.core.files import write_text
from rlhive.core.interrupt import catch_signals
from rlhive.core.keys import make_generators
from rlhive.core.learner import Learner, last_metrics, make_learner, observe
from rlhive.core.replay import ReplayBuffer
from rlhive.core.run_spec import RunSpec, new_run_spec
from rlhive.core.tree_file import LoadError
from rlhive.core.types import TrainState
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.exploration import Exploration
from rlhive.record import Progress, Recorder, plot_curves

if TYPE_CHECKING:
    from rlhive.config import TrainConfig

EVALUATION_ENVS = 4
EVALUATION_SEED = 0


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
        generators: one dict of streams per seed.
        state: the train state `[S]`.
        step: environment steps per seed so far.
    """

    config: TrainConfig
    run_dir: Path
    spec: RunSpec
    learner: Learner
    explore: Exploration
    envs: VectorEnv
    evaluation_envs: VectorEnv
    replay: ReplayBuffer
    recorder: Recorder
    generators: list[dict[str, torch.Generator]]
    state: TrainState
    step: int = 0


@contextlib.contextmanager
def open_run(config: TrainConfig, run_dir: Path, *, resume: bool = False) -> Iterator[Run]:
    """Starts workers, networks, replay and recorder of a new run, or of one that is resumed; closes them at the end.

    Args:
        config: the resolved configuration.
        run_dir: an existing directory; that of the run to resume.
        resume: continue from the latest checkpoint. Environments begin new episodes there.

    Raises:
        LoadError: the run to resume is of another environment, algorithm or network, or its files are damaged.
    """
    with contextlib.ExitStack() as stack:
        envs, evaluation_envs = (stack.enter_context(vector) for vector in _start_envs(config))
        learner = make_learner(config, envs.spec)
        generators = [make_generators(seed) for seed in config.seeds]
        run = Run(
            config=config,
            run_dir=run_dir,
            spec=new_run_spec(config.algorithm, envs.spec, learner.network, config.seeds),
            learner=learner,
            explore=config.exploration(envs.spec.action_low, envs.spec.action_high),
            envs=envs,
            evaluation_envs=evaluation_envs,
            replay=config.make_replay(
                num_seeds=config.num_seeds, num_envs=config.num_envs, device=config.device
            ),
            recorder=None,  # type: ignore[arg-type]
            generators=generators,
            state=learner.init(generators),
        )
        if resume:
            _restore(run)
        else:
            write_text(run_dir / "spec.json", run.spec.to_json())
        run.recorder = stack.enter_context(
            Recorder(
                run_dir,
                loggers=config.loggers,
                wandb=config.wandb,
                resume_step=run.step if resume else None,
            )
        )
        yield run


def _start_envs(config: TrainConfig) -> tuple[VectorEnv, VectorEnv]:
    """Those of training and of evaluation; their workers start at the same time, as each takes seconds."""

    def start(num_envs: int) -> VectorEnv:
        return VectorEnv(
            config.env_name, seeds=config.seeds, num_envs=num_envs, num_workers=config.num_workers
        )

    with ThreadPoolExecutor() as threads:
        futures = [threads.submit(start, num_envs) for num_envs in (config.num_envs, EVALUATION_ENVS)]
    for future in futures:
        if future.exception() is not None:
            for other in futures:
                if other.exception() is None:
                    other.result().close()
            future.result()
    training, evaluation = (future.result() for future in futures)
    return training, evaluation


def train(run: Run) -> bool:
    """Trains until `total_steps`, or until Ctrl-C or SIGTERM; either way the last state is saved.

    Returns:
        Whether the run came to its end.

    Raises:
        FloatingPointError: an action or a loss of a seed is not finite; the checkpoints before are kept.
    """
    config = run.config
    progress = Progress(config.total_steps, initial_step=run.step)
    episodes = EpisodeTracker(run.envs.shape)
    observation = run.envs.reset()
    is_init = torch.ones(*run.envs.shape, 1, dtype=torch.bool)
    explore_state = run.explore.init(run.envs.shape, run.spec.env.action_dim)
    evaluated_at = saved_at = run.step
    metrics = None
    with catch_signals() as stopped:
        while run.step < config.total_steps and not stopped:
            action, explore_state = _choose_action(run, observation, explore_state, is_init)
            run.envs.send(action)
            metrics = _update(run, metrics)  # while the workers step
            transition = run.envs.recv()
            _store(run, observation, action, transition)
            observation, is_init = transition["observation"], transition["next", "done"]
            run.step += config.num_envs
            if episodes.add(transition["next"]):
                progress.update(run.step, **episodes.latest())
            if _due(run, config.log_every) and metrics is not None:
                _log(run, metrics, episodes)
            if _due(run, config.evaluate_every):
                _evaluate(run)
                evaluated_at = run.step
            if _due(run, config.checkpoint_every):
                _save(run)
                saved_at = run.step
    if evaluated_at != run.step and not stopped:
        _evaluate(run)
    if saved_at != run.step:
        _save(run)
    progress.update(run.step)
    progress.close()
    return not stopped


def _choose_action(
    run: Run, observation: Tensor, explore_state: TensorDict, is_init: Tensor
) -> tuple[Tensor, TensorDict]:
    """The next action `[S, E, A]`: uniformly random at first, then sampled from the policy and explored."""
    num_envs, action_dim = run.config.num_envs, run.spec.env.action_dim
    if run.step < run.config.init_random_steps:
        uniform = torch.stack(
            [torch.rand(num_envs, action_dim, generator=g["action"]) for g in run.generators]
        )
        low, high = run.learner.network.limits(uniform)
        return low + uniform * (high - low), explore_state
    normal = torch.stack([torch.randn(num_envs, action_dim, generator=g["action"]) for g in run.generators])
    device = run.config.device
    action = run.learner.act(run.state, observation.to(device), normal.to(device)).cpu()
    draws = torch.stack([run.explore.draw(g["exploration"], num_envs, action_dim) for g in run.generators])
    action, explore_state = run.explore.apply(explore_state, action, draws, run.step, is_init)
    _check_finite(run, action, "action")
    return action, explore_state


def _update(run: Run, metrics: TensorDict | None) -> TensorDict | None:
    """The gradient updates due for the coming environment steps; the metrics of the last one so far."""
    config = run.config
    if run.step < config.init_random_steps or len(run.replay) < config.batch_size:
        return None
    ratio = config.updates_per_step
    due = math.floor((run.step + config.num_envs) * ratio) - math.floor(run.step * ratio)
    for _ in range(due):
        batch = run.replay.sample([g["replay"] for g in run.generators], config.batch_size)
        noise = run.learner.draw_loss_noise(run.generators)
        run.state, metrics = run.learner.train_step(run.state, batch, noise)
        if "index" in batch.keys():  # noqa: SIM118
            _check_finite(run, metrics["td_error"], "TD error")
            run.replay.update_priority(batch["index"], metrics["td_error"])
    return metrics


def _store(run: Run, observation: Tensor, action: Tensor, transition: TensorDict) -> None:
    """Stores the raw transition, and takes what the policy saw into the normaliser."""
    following = transition["next"].select("observation", "reward", "terminated", "done")
    run.replay.extend(
        TensorDict({"observation": observation, "action": action, "next": following}, transition.batch_size)
    )
    run.state = observe(run.state, observation.to(run.config.device))


def _log(run: Run, metrics: TensorDict, episodes: EpisodeTracker) -> None:
    _check_finite(run, metrics["loss"], "loss")
    values = last_metrics(metrics)
    for index, seed in enumerate(run.config.seeds):
        row = {name: value[index].item() for name, value in values.items()}
        run.recorder.write(run.step, seed, row | episodes.summary(index))


def _evaluate(run: Run) -> None:
    device = run.config.device
    seeds = evaluation_seeds(EVALUATION_SEED, run.config.evaluation_episodes)
    outcome = run_episodes(
        run.evaluation_envs,
        lambda observation: run.learner.act_mode(run.state, observation.to(device)).cpu(),
        seeds,
    )
    for index, seed in enumerate(run.config.seeds):
        row = {
            "eval/return": float(outcome.returns[index].mean()),
            "eval/success": float(outcome.success[index].mean()),
            "eval/length": float(outcome.lengths[index].mean()),
        }
        run.recorder.write(run.step, seed, row)
    plot_curves(run.run_dir)


def _save(run: Run) -> None:
    """Writes the replay of this step, then the checkpoint, then drops older replays: never a checkpoint without."""
    folder = run.run_dir / "replay"
    folder.mkdir(exist_ok=True)
    run.replay.save(_replay_path(run))
    streams = {name: [of_seed[name] for of_seed in run.generators] for name in run.generators[0]}
    save_checkpoint(
        run.run_dir, run.step, run.state, run.spec, seeds=run.config.seeds, generators=streams, counters={}
    )
    for path in folder.glob("*.safetensors"):
        if path != _replay_path(run):
            path.unlink()


def _restore(run: Run) -> None:
    checkpoint = load_checkpoint(run.run_dir, run.config.seeds)
    saved, now = checkpoint.spec, run.spec
    for name in ("algorithm", "env", "network"):
        if getattr(saved, name) != getattr(now, name):
            difference = _difference(getattr(saved, name), getattr(now, name))
            raise LoadError(f"{run.run_dir}: cannot be resumed with another {name}: {difference}")
    run.spec, run.step = saved, checkpoint.step
    run.state = checkpoint.state.to(run.config.device)
    for name, states in checkpoint.generators.items():
        for of_seed, generator_state in zip(run.generators, states, strict=True):
            of_seed[name].set_state(generator_state)
    try:
        run.replay.load(_replay_path(run))
    except (ValueError, OSError) as error:
        raise LoadError(f"{run.run_dir}: its replay cannot be read: {error}") from None


def _difference(saved: Any, now: Any) -> str:
    if not attrs.has(type(saved)):
        return f"{saved!r} there, {now!r} in the configuration"
    pairs = {name: (getattr(saved, name), getattr(now, name)) for name in attrs.fields_dict(type(saved))}
    return "; ".join(f"{name} is {_difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1])


def _replay_path(run: Run) -> Path:
    return run.run_dir / "replay" / f"{run.step}.safetensors"


def _due(run: Run, every: int) -> bool:
    return run.step // every > (run.step - run.config.num_envs) // every


def _check_finite(run: Run, values: Tensor, what: str) -> None:
    finite = torch.isfinite(values).flatten(1).all(-1) if values.dim() > 1 else torch.isfinite(values)
    if not bool(finite.all()):
        seed = run.config.seeds[finite.tolist().index(False)]
        raise FloatingPointError(
            f"seed {seed}: the {what} is not finite at step {run.step}; the checkpoints before are kept. "
            "Lower adam.learning_rate or set adam.max_grad_norm, and start again"
        )
