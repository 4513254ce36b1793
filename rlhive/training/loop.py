"""The training loop: steps, and between them metrics, evaluations and checkpoints when due."""

from __future__ import annotations

import time

from tensordict import TensorDict
from torch import Tensor

from rlhive.algorithms import step_key
from rlhive.core.interrupt import catch_signals
from rlhive.curves import plot_curves
from rlhive.metrics import drop_evaluation, has_evaluation, sum_up
from rlhive.policy_fn.plan import follow
from rlhive.progress import Progress
from rlhive.runs.run_files import EVALUATION_SEED, NOT_FINITE, TARGET_MET
from rlhive.training import offline, online
from rlhive.training.evaluation import evaluation_seeds, run_episodes
from rlhive.training.pictures import Strip, film_run, write_strip
from rlhive.training.rollout import episode_summary
from rlhive.training.run import OnlineRun, Run, save_run
from rlhive.training.stop import not_finite, stop_broken, stop_seeds, stopped_text

STOPPING = "rlhive.train: stopping: saves after this step; Ctrl-C again ends at once"
SECONDS_BETWEEN_PICTURES = 60.0  # drawing the curves stops training for a second or two


def train(run: Run) -> bool:
    """Trains until `total_steps` or until Ctrl-C, SIGTERM or SIGHUP; the last state is saved in any case.

    Returns:
        Whether the run reached its end.

    Raises:
        FloatingPointError: no seed is left whose actions and losses are finite; their last good states are saved.
    """
    config = run.config
    progress = Progress(config.total_steps, initial_step=run.step)
    saved_at = run.step
    evaluated_at = run.step if _is_evaluated(run) else None
    drawn_at = time.monotonic()
    with catch_signals(STOPPING) as stopped:
        while run.step < config.total_steps and run.seeds and not stopped:
            _step(run, progress)
            if _due(run, config.log_every) and run.metrics:
                _log(run)
            if _due(run, config.evaluate_every):
                _evaluate(run, progress)
                evaluated_at = run.step
                if time.monotonic() - drawn_at > SECONDS_BETWEEN_PICTURES and run.step < config.total_steps:
                    plot_curves(run.run_dir, step_key(config.algorithm))
                    drawn_at = time.monotonic()
            if _due(run, config.checkpoint_every):
                save_run(run)
                saved_at = run.step
        # Before the last evaluation, which may be interrupted; a seed may also have stopped right after a checkpoint.
        if saved_at != run.step or not run.seeds:
            save_run(run, with_replay=saved_at != run.step)
        training = run.seeds
        if evaluated_at != run.step and not stopped:
            _evaluate(run, progress)
            sum_up(run.run_dir)  # a repeated evaluation may have begun with seeds that stopped in it
        if run.seeds != training:
            save_run(run, with_replay=False)
        plot_curves(run.run_dir, step_key(config.algorithm))
    progress.update(run.step)
    progress.close()
    if not run.seeds and all(one.reason == NOT_FINITE for one in run.stopped.values()):
        raise FloatingPointError(
            f"no seed is left: {stopped_text(run.stopped)}; their last good states are saved. "
            "Lower adam.learning_rate or set adam.max_grad_norm, and start again"
        )
    return not stopped


def _is_evaluated(run: Run) -> bool:
    """Whether a resumed run has an evaluation of all its seeds at its step; an incomplete one is dropped.

    The run may have ended between its last checkpoint and the evaluation after it, or before all of it was written.
    """
    if has_evaluation(run.run_dir, run.step, run.seeds):
        return True
    drop_evaluation(run.run_dir, run.step, run.seeds)
    return False


def _step(run: Run, progress: Progress) -> None:
    if isinstance(run, OnlineRun):
        online.step(run, progress)
    else:
        offline.step(run, progress)


def _log(run: Run) -> None:
    run.store_step()
    rows = {}
    for index, seed in enumerate(run.seeds):
        own = {name: value[index].item() for name, value in run.metrics.items()}
        rows[seed] = own | (
            episode_summary(run.rollout["episodes"][index]) if len(run.rollout.keys()) else {}
        )
    run.recorder.write(run.step, rows)


def _evaluate(run: Run, progress: Progress) -> None:
    """Evaluates every seed that trains; a seed that reaches `target_success` stops."""
    if not run.seeds:
        return
    device, target, broken = run.config.device, run.config.target_success, dict[int, str]()
    seeds = evaluation_seeds(EVALUATION_SEED, run.config.evaluation_episodes)

    def act(seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        action, rest = follow(rest, lambda: run.learner.plan(run.state, seen.to(device)).cpu())
        broken.update(dict.fromkeys(not_finite(run, action), "action"))
        broken.update(dict.fromkeys(not_finite(run, seen["observation"]), "observation"))
        return action.nan_to_num(0.0, 0.0, 0.0), rest

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
        if seed not in broken
    }
    states = online.states_acted_with(run, [seed for seed, what in broken.items() if what == "action"])
    if broken and not stop_broken(run, dict(sorted(broken.items())), states, progress):
        return
    run.recorder.write(run.step, rows)
    if strip:
        write_strip(run.run_dir, strip, int(outcome.lengths[0, 0]))
    if _is_filmed(run):
        progress.note(film_run(run))
    if not isinstance(run, OnlineRun):  # an online run shows its training episodes instead
        success = [row["eval/success"] for row in rows.values()]
        returns = [row["eval/return"] for row in rows.values()]
        progress.update(run.step, returns, sum(success) / len(success))
    met = {s: TARGET_MET for s, row in rows.items() if target is not None and row["eval/success"] >= target}
    for seed in met:
        progress.note(f"seed {seed}: success {rows[seed]['eval/success']:.0%} at step {run.step}; it stops")
    stop_seeds(run, met, {})


def _is_filmed(run: Run) -> bool:
    """Whether the evaluation at this step is to be filmed; the last evaluation may come before its regular step."""
    every, steps = run.config.video_every, run.config.evaluate_every
    if not every:
        return False
    return _due(run, every * steps) if _due(run, steps) else (run.step // steps + 1) % every == 0


def _due(run: Run, every: int) -> bool:
    return run.step // every > (run.step - run.config.num_envs) // every
