"""The training loop: environments step in workers while the learner updates; metrics, evaluation, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.evaluation import evaluation_seeds, run_episodes
from rlhive.core.interrupt import catch_signals
from rlhive.core.learner import last_metrics, observe
from rlhive.core.pictures import Strip, film_run, write_strip
from rlhive.core.rollout import SEEN, count_step, episode_summary, latest_episodes
from rlhive.core.run import NOT_FINITE, TARGET_MET, Run, save_run, stop_seeds, stopped_text
from rlhive.core.types import TrainState
from rlhive.curves import plot_curves
from rlhive.progress import Progress
from rlhive.record import EVALUATION_SEED


def train(run: Run) -> bool:
    """Trains until `total_steps`, or until Ctrl-C or SIGTERM; either way the last state is saved.

    Returns:
        Whether the run came to its end.

    Raises:
        FloatingPointError: no seed is left whose actions and losses are finite; their last good states are saved.
    """
    config = run.config
    progress = Progress(config.total_steps, initial_step=run.step)
    evaluated_at = saved_at = run.step
    metrics = None
    with catch_signals() as stopped:
        while run.step < config.total_steps and run.seeds and not stopped:
            metrics, episode_ended = _step(run, metrics, progress)
            if episode_ended:
                progress.update(run.step, *latest_episodes(run.rollout["episodes"]))
            if _due(run, config.log_every) and metrics is not None:
                _log(run, metrics)
            if _due(run, config.evaluate_every):
                _evaluate(run, progress)
                evaluated_at = run.step
            if _due(run, config.checkpoint_every):
                save_run(run)
                saved_at = run.step
    if evaluated_at != run.step and not stopped:
        _evaluate(run, progress)
    if saved_at != run.step or not run.seeds:  # a seed may have stopped right after the last checkpoint
        save_run(run)
    progress.update(run.step)
    progress.close()
    if not run.seeds and all(one.reason == NOT_FINITE for one in run.stopped.values()):
        raise FloatingPointError(
            f"no seed is left: {stopped_text(run.stopped)}; their last good states are saved. "
            "Lower adam.learning_rate or set adam.max_grad_norm, and start again"
        )
    return not stopped


def _step(run: Run, metrics: TensorDict | None, progress: Progress) -> tuple[TensorDict | None, bool]:
    """One step of all environments and the updates due; the latest metrics, and whether an episode ended."""
    action = _choose_action(run)
    if broken := dict.fromkeys(_not_finite(run, action), "action"):
        kept = _freeze(run, broken, {}, progress)
        if not kept:
            return metrics, False
        action = action[kept]
    run.envs.send(action)
    metrics, good_states = _update(run, metrics)  # while the workers step
    transition = run.envs.recv()
    broken = dict.fromkeys(_not_finite(run, _seen(transition)), "observation or reward")
    broken |= dict.fromkeys(good_states, "loss or a parameter")
    if broken:
        kept = _freeze(run, broken, good_states, progress)
        if not kept:
            return metrics, False
        action, transition = action[kept], transition[kept]
        metrics = None if metrics is None else metrics[kept]
    _store(run, action, transition)
    run.step += run.config.num_envs
    return metrics, bool(transition["next", "done"].any())


def _choose_action(run: Run) -> Tensor:
    """The next action `[S, E, A]`: uniformly random at first, then sampled from the policy and explored."""
    num_envs, action_dim = run.config.num_envs, run.spec.env.action_dim
    if run.step < run.config.init_random_steps:
        uniform = torch.stack(
            [torch.rand(num_envs, action_dim, generator=g["action"]) for g in run.generators]
        )
        low, high = run.learner.network.limits(uniform)
        return low + uniform * (high - low)
    normal = torch.stack([torch.randn(num_envs, action_dim, generator=g["action"]) for g in run.generators])
    device, rollout = run.config.device, run.rollout
    seen = rollout.select(*SEEN, strict=False).to(device)
    action = run.learner.act(run.state, seen, normal.to(device)).cpu()
    draws = torch.stack([run.explore.draw(g["exploration"], num_envs, action_dim) for g in run.generators])
    action, rollout["explore"] = run.explore.apply(
        rollout["explore"], action, draws, run.step, rollout["is_init"]
    )
    return action


def _update(run: Run, metrics: TensorDict | None) -> tuple[TensorDict | None, dict[int, TrainState]]:
    """The gradient updates due for the coming environment steps.

    Returns:
        The metrics `[S]` of the last update so far, and the last good state of each seed that one of these broke.
    """
    config = run.config
    good_states: dict[int, TrainState] = {}
    if run.step < config.init_random_steps or len(run.replay) < config.batch_size:
        return metrics, good_states
    ratio = config.updates_per_step
    due = math.floor((run.step + config.num_envs) * ratio) - math.floor(run.step * ratio)
    for _ in range(due):
        batch = run.replay.sample([g["replay"] for g in run.generators], config.batch_size)
        noise = run.learner.draw_loss_noise(run.generators)
        before = run.state
        run.state, metrics = run.learner.train_step(before, batch, noise)
        for index in (~metrics["finite"]).nonzero().flatten().tolist():
            good_states.setdefault(run.seeds[index], before[index])
        if "index" in batch.keys():  # noqa: SIM118
            run.replay.update_priority(batch["index"], metrics["td_error"].nan_to_num(posinf=0.0))
    return metrics, good_states


def _store(run: Run, action: Tensor, transition: TensorDict) -> None:
    """Stores the raw transition, takes what the policy saw into the normaliser, and moves on."""
    rollout, observation = run.rollout, run.rollout["observation"]
    following = transition["next"].select(*SEEN, "reward", "terminated", "done", strict=False)
    stored = {**rollout.select(*SEEN, strict=False), "action": action, "next": following}
    run.replay.extend(TensorDict(stored, transition.batch_size))
    run.state = observe(run.state, observation.to(run.config.device))
    rollout.update(transition.select(*SEEN, strict=False))
    rollout["is_init"] = following["done"]
    rollout["episodes"] = count_step(rollout["episodes"], transition["next"])


def _freeze(
    run: Run, broken: Mapping[int, str], good_states: Mapping[int, TrainState], progress: Progress
) -> list[int]:
    """Stops seeds at their last good state and says what of them is not finite; the indices of those that go on."""
    for seed, what in broken.items():
        progress.note(
            f"seed {seed}: the {what} is not finite at step {run.step}; it is frozen at its last good state"
        )
    return stop_seeds(run, dict.fromkeys(broken, NOT_FINITE), good_states)


def _log(run: Run, metrics: TensorDict) -> None:
    values = last_metrics(metrics)
    rows = {}
    for index, seed in enumerate(run.seeds):
        own = {name: value[index].item() for name, value in values.items()}
        rows[seed] = own | episode_summary(run.rollout["episodes"][index])
    run.recorder.write_seeds(run.step, rows)


def _evaluate(run: Run, progress: Progress) -> None:
    """Evaluates every seed that trains; one that reached `target_success` stops here."""
    if not run.seeds:
        return
    device, target = run.config.device, run.config.target_success
    seeds = evaluation_seeds(EVALUATION_SEED, run.config.evaluation_episodes)

    def act(seen: TensorDict) -> Tensor:
        return run.learner.act_mode(run.state, seen.to(device)).cpu()

    pixels = run.spec.env.pixels
    strip = Strip(act, run.evaluation_envs) if pixels and pixels.cameras else None
    outcome = run_episodes(run.evaluation_envs, strip or act, seeds)
    rows = {
        seed: {
            "eval/return": float(outcome.returns[index].mean()),
            "eval/success": float(outcome.success[index].mean()),
            "eval/length": float(outcome.lengths[index].mean()),
        }
        for index, seed in enumerate(run.seeds)
    }
    run.recorder.write_seeds(run.step, rows)
    plot_curves(run.run_dir)
    if strip:
        write_strip(run.run_dir, strip, int(outcome.lengths[0, 0]))
    if (every := run.config.video_every) and _due(run, every * run.config.evaluate_every):
        progress.note(f"filmed {film_run(run)}")
    met = {s: TARGET_MET for s, row in rows.items() if target is not None and row["eval/success"] >= target}
    for seed in met:
        progress.note(f"seed {seed}: success {rows[seed]['eval/success']:.0%} at step {run.step}; it stops")
    stop_seeds(run, met, {})


def _due(run: Run, every: int) -> bool:
    return run.step // every > (run.step - run.config.num_envs) // every


def _not_finite(run: Run, values: Tensor) -> list[int]:
    """The seeds that have a value in `[S, ...]` that is not finite."""
    finite = values.isfinite().flatten(1).all(-1).tolist()
    return [seed for seed, good in zip(run.seeds, finite, strict=True) if not good]


def _seen(transition: TensorDict) -> Tensor:
    """All that came from the environments, `[S, E, 2 O + 1]`."""
    following = transition["next"]
    return torch.cat([transition["observation"], following["observation"], following["reward"]], dim=-1)
