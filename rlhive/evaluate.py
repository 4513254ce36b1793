"""Plays episodes with a trained policy and summarizes them: success, return, and how certain the numbers are.

    python -m rlhive.evaluate --run_dir=runs/…

The episodes differ from those of training, and are the same for every run evaluated with the same --seed. If a run has
several trained seeds, the best one is named: it is chosen by the run's own last evaluations, and its figures are those
of the episodes played here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from rlhive import load_torch
from rlhive.command import load_torch_on_one_thread, refuse_arguments, require_flags, start
from rlhive.own_modules import define_import_flag, import_own_modules
from rlhive.runs.run_files import CHECKPOINTS, EVALUATION_SEED, METRICS_FILE

if TYPE_CHECKING:
    import numpy as np

    from rlhive.policy_fn.policy import Policy

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Directory of a run, of one of its checkpoints, or of a bundle.")
    flags.DEFINE_integer("step", None, "Which checkpoint of the run; the latest by default.", lower_bound=0)
    flags.DEFINE_integer("episodes", 20, "Number of episodes for each trained seed.", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        1,
        "Which episodes: the same seed gives the same ones. 0 gives those of the run's own evaluations; since its best "
        "seed is chosen by them, none is named then.",
        lower_bound=0,
    )
    flags.DEFINE_bool("deterministic", None, "Act with the policy's mode (the default).")
    flags.DEFINE_bool(
        "stochastic", False, "Act with samples from the policy, with the same noise for all seeds."
    )
    flags.DEFINE_string("video", None, "Film the first episode of the first seed into this .mp4 file.")
    flags.DEFINE_list(
        "cameras",
        [],
        "Cameras of --video, side by side; by default those of the policy, or else the model's first one.",
    )
    define_import_flag()
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else, on stdout.")
    flags.mark_bool_flags_as_mutual_exclusive(["deterministic", "stochastic"])


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    refuse_arguments(argv, "run_dir")
    require_flags("run_dir")
    video = Path(FLAGS.video) if FLAGS.video else None
    check_input(Path(FLAGS.run_dir), video, FLAGS.cameras)
    load_torch_on_one_thread()
    stochastic = FLAGS.stochastic or FLAGS.deterministic is False
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report only
        import_own_modules(FLAGS["import"].value)
        report = evaluate(
            FLAGS.run_dir,
            FLAGS.episodes,
            FLAGS.seed,
            step=FLAGS.step,
            stochastic=stochastic,
            video=video,
            cameras=FLAGS.cameras,
        )
    sys.stdout.write((json.dumps(report, indent=2) if FLAGS.json else format_report(report)) + "\n")
    return 0


def check_input(run_dir: Path, video: Path | None, cameras: Sequence[str] = ()) -> None:
    """Refuses flags that cannot work, before anything slow is imported or started.

    Raises:
        ValueError: no such run, a video that could not be written, cameras without a video, or a wrong MUJOCO_GL.
    """
    from rlhive.gl_backend import check_backend

    check_backend(draws=video is not None)
    if not run_dir.is_dir():
        raise ValueError(f"--run_dir={run_dir}: there is no such directory")
    if video is None:
        if cameras:
            raise ValueError("--cameras needs --video: they are the cameras of the video")
        return
    if video.suffix != ".mp4" or video.is_dir() or not video.resolve().parent.is_dir():
        raise ValueError(f"--video={video}: must be a file ending in .mp4 in a directory that exists")
    from rlhive.core.pixel_spec import check_each_once
    from rlhive.ffmpeg import check_ffmpeg

    check_each_once(cameras)
    check_ffmpeg("--video")


def evaluate(
    run_dir: str | os.PathLike[str],
    episodes: int,
    seed: int,
    *,
    step: int | None = None,
    stochastic: bool = False,
    video: Path | None = None,
    cameras: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates every seed of a run's checkpoint, or a bundle, on the same episodes.

    Args:
        run_dir: the directory of the run, of one of its checkpoints, or of the bundle.
        episodes: number for each trained seed.
        seed: determines the episodes, and the noise of stochastic policies; the same for every trained seed.
        step: which checkpoint of the run; the latest by default.
        stochastic: act with samples from the policy instead of its mode.
        video: an .mp4 file for the first seed's first episode, which is filmed before anything else.
        cameras: of the video; if empty, those of the policy, or else the model's first one.

    Returns:
        A plain dict for JSON. "seeds" has the summary of each seed, "success" and "return_mean" are over all of them,
        and "best_seed" is the best by the run's own evaluations up to this step, None if that cannot be said.
        "not_finite" lists the seeds whose policies give actions that are not finite; they have no figures and count
        nowhere.

    Raises:
        ValueError: no policy can be loaded or gives finite actions, its environment differs from the one installed
            here, there is no such camera, or metrics.csv is damaged.
        RuntimeError: the environment cannot be built or fails.
    """
    load_torch()  # before anything that loads mujoco

    from rlhive.play import all_broken, load_policies, play
    from rlhive.training.evaluation import evaluation_seeds

    policies, step, not_finite = load_policies(run_dir, step)
    metrics = _metrics_of_run(run_dir)  # read before any episode is played, to refuse a damaged table at once
    episode_seeds = evaluation_seeds(seed, episodes)
    if video is not None:
        video = _film(policies, seed, episode_seeds[0], video, cameras, stochastic=stochastic)
    outcome, broken = play(policies, seed, episode_seeds, stochastic=stochastic)
    not_finite |= broken
    finite = {trained: index for index, trained in enumerate(policies) if trained not in broken}
    if not finite:
        raise ValueError(all_broken(run_dir, not_finite))
    by_seed = [
        {"seed": trained, **summarize_seed(outcome.returns[index], outcome.success[index], seed)}
        for trained, index in finite.items()
    ]
    rows = list(finite.values())
    return {
        "run_dir": str(run_dir),
        "environment": next(iter(policies.values())).spec.env.name,
        "step": step,
        "episodes": episodes,
        "seed": seed,
        "deterministic": not stochastic,
        "success": float(outcome.success[rows].mean()),
        "return_mean": float(outcome.returns[rows].mean()),
        "seeds": by_seed,
        "not_finite": sorted(not_finite),
        "best_seed": best_seed(metrics, list(finite), seed, step),
        "video": None if video is None else str(video),
    }


def _metrics_of_run(run_dir: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns of metrics.csv, of the run or of the checkpoint's run; none if there is no such file."""
    from rlhive.metrics import read_metrics

    parent = Path(run_dir).absolute().parent
    of_run = parent.parent if parent.name == CHECKPOINTS else Path(run_dir)
    return read_metrics(of_run) if (of_run / METRICS_FILE).exists() else {}


def _film(
    policies: Mapping[int, Policy],
    seed: int,
    episode_seed: int,
    video: Path,
    cameras: Sequence[str],
    *,
    stochastic: bool,
) -> Path | None:
    """Films the first policy; returns None, with a line on stderr, if its actions are not finite."""
    from rlhive.core.errors import NotFiniteActionError
    from rlhive.play import make_actor
    from rlhive.video import film

    trained, policy = next(iter(policies.items()))
    try:
        film(make_actor(policy, seed, stochastic=stochastic), policy.spec.env, episode_seed, video, cameras)
    except NotFiniteActionError as error:
        sys.stderr.write(f"rlhive.evaluate: no video: seed {trained}: {error}\n")
        return None
    return video


def summarize_seed(returns: np.ndarray, success: np.ndarray, seed: int) -> dict[str, Any]:
    """Success rate, and mean, median and 95 % bootstrap interval (if n > 1) of the mean of returns `[n]`.

    Raises:
        ValueError: a return is not finite.
    """
    import numpy as np

    from rlhive.core.stats import bootstrap_interval

    interval = bootstrap_interval(returns, np.random.default_rng(seed))
    return {
        "success": float(success.mean()),
        "return_mean": float(returns.mean()),
        "return_median": float(np.median(returns)),
        "return_interval_95": list(interval) if len(returns) > 1 else None,
    }


def best_seed(
    metrics: Mapping[str, np.ndarray], seeds: Sequence[int], evaluation_seed: int, step: int
) -> int | None:
    """The trained seed whose last evaluation in metrics.csv has the highest success rate, then the highest return.

    Args:
        metrics: the columns of the run's metrics.csv, `[rows]` each; empty without one.
        seeds: the trained seeds to choose from.
        evaluation_seed: of the episodes that the seed will be reported on.
        step: of the policies; later evaluations are ignored.

    Returns:
        None if there is one seed or no evaluation to choose by, and on the very episodes of those evaluations: on the
        episodes it was chosen by, the best of several seeds looks better than it is.
    """
    names = ("step", "seed", "eval/success", "eval/return")
    if len(seeds) < 2 or evaluation_seed == EVALUATION_SEED or any(name not in metrics for name in names):
        return None
    rows = zip(*(metrics[name].tolist() for name in names), strict=True)
    last = {
        int(seed): scores for at, seed, *scores in rows if at <= step and not any(map(math.isnan, scores))
    }
    return max((seed for seed in seeds if seed in last), key=lambda seed: last[seed], default=None)


def format_report(report: dict[str, Any]) -> str:
    """The report of `evaluate` as text."""
    how = "deterministic" if report["deterministic"] else "stochastic"
    lines = [
        f"{report['environment']} at step {report['step']}: {report['episodes']} episodes, "
        f"evaluation seed {report['seed']}, {how}"
    ]
    for seed in report["seeds"]:
        ends = seed["return_interval_95"]
        interval = f" (95 % interval {ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
        lines.append(
            f"  seed {seed['seed']}: success {seed['success']:.1%}, return mean {seed['return_mean']:.1f}{interval}, "
            f"median {seed['return_median']:.1f}"
        )
    for trained in report["not_finite"]:
        lines.append(f"  seed {trained}: its policy gives actions that are not finite, so it has no figures")
    if len(report["seeds"]) > 1:
        lines.append(f"  all seeds: success {report['success']:.1%}, return mean {report['return_mean']:.1f}")
        lines.append(f"  best seed: {_describe_best(report)}")
    if report["video"]:
        lines.append(f"  video: {report['video']}")
    return "\n".join(lines)


def _describe_best(report: dict[str, Any]) -> str:
    """The best of several seeds with its figures, or why none is named."""
    best = [of for of in report["seeds"] if of["seed"] == report["best_seed"]]
    if best:
        figures = f"success {best[0]['success']:.1%}, return mean {best[0]['return_mean']:.1f}"
        return f"{best[0]['seed']}, chosen by the run's own last evaluations, has {figures} on these episodes"
    if report["seed"] == EVALUATION_SEED:
        return f"none is named with --seed={EVALUATION_SEED}: it would be chosen by these very episodes; use another"
    return "none is named: the run's metrics.csv has no evaluations to choose it by"


if __name__ == "__main__":
    start("rlhive.evaluate", main, define_flags, sys.argv)
