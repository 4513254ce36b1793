"""Whether a policy that sees learns more than one that does not, on a task where there is something to be seen.

    python -m benchmarks.seeing --out=runs/seeing --jobs=2

FrankaReachRandom with proprioception alone, so without the target's position: through a trained CNN and one 64x64
camera, through a random R3M-18 and the same camera, and blind. All else is the same. Each seed is a
`python -m rlhive.train` of its own in `<out>/<policy>/seed_<seed>`; the same command again continues what was
stopped.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

import rlhive  # noqa: F401 - torch before mujoco
from benchmarks.intervals import hierarchical_interval
from benchmarks.learning import read_curves, start_run, steps_done
from rlhive.command import start
from rlhive.core.files import replacing, write_text

FLAGS = flags.FLAGS
EPISODES, EPISODES_SEED = 100, 1  # of the final evaluation of each seed; those of training have seed 0
MARGIN = 30.0  # by so much the CNN's mean return has to be higher than the blind policy's

SETTINGS = (
    "train.batch_size=128",
    "train.compile=True",
    "train.evaluate_every=2000",
    "train.evaluation_episodes=10",
    "train.checkpoint_every=3000",
    "images.image_size=64",
    "images.quality='fast'",
)
SEES = "images.cameras=('top_cam',)"
POLICIES = {
    "cnn": (SEES, "train.encoder=@cnn", "cnn.layers=((16, 8, 4), (32, 4, 2))"),
    "blind": ("images.cameras=()", "train.encoder=@flat"),
    "r3m18-random": (SEES, "train.encoder=@r3m", "r3m.weights='random'"),
}


class Score(NamedTuple):
    """The final evaluation of one policy: returns and success (0 or 1) of the episodes, `[S, EPISODES]`."""

    returns: np.ndarray
    success: np.ndarray


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_list("policies", list(POLICIES), "Which ones.")
    flags.DEFINE_list("seeds", ["1", "2"], "The seeds, such as 1,2,3.")
    flags.DEFINE_integer("steps", 6000, "Environment steps of each run.", lower_bound=1)
    flags.DEFINE_integer("jobs", 1, "Runs at a time; they share the cores evenly.", lower_bound=1)
    flags.DEFINE_string("out", "runs/seeing", "Directory of the runs, of seeing.md and of seeing.png.")


def main(argv: Sequence[str]) -> int:
    """Trains what is not yet trained, evaluates, and reports; the exit code is 1 where a run failed."""
    known = all(seed.isdecimal() for seed in FLAGS.seeds) and set(FLAGS.policies) <= set(POLICIES)
    if len(argv) > 1 or not known:
        raise ValueError(f"wrong arguments; the policies are {', '.join(POLICIES)}; see --help")
    out, seeds = Path(FLAGS.out), [int(seed) for seed in FLAGS.seeds]
    if not train_all(out, FLAGS.policies, seeds, FLAGS.steps, FLAGS.jobs):
        return 1
    report(out, evaluate_all(out, FLAGS.policies, seeds, FLAGS.jobs), seeds, FLAGS.steps)
    return 0


def train_all(out: Path, policies: Sequence[str], seeds: Sequence[int], steps: int, jobs: int) -> bool:
    """Trains the runs that are not done, some at a time; whether all are done now."""

    def train(run: tuple[str, int]) -> bool:
        policy, seed = run
        bindings = (*SETTINGS, *POLICIES[policy], f"SEED={seed}", f"TOTAL_STEPS={steps}")
        arguments = ["--gin_file=sac_cnn.gin", *(f"--gin.{binding}" for binding in bindings)]
        return start_run(run_dir(out, policy, seed), f"{policy}, seed {seed}", arguments, jobs=jobs)

    runs = [(policy, seed) for policy in policies for seed in seeds]
    waiting = [run for run in runs if steps_done(run_dir(out, *run)) < steps]
    with ThreadPoolExecutor(jobs) as executor:
        return all(list(executor.map(train, waiting)))


def run_dir(out: Path, policy: str, seed: int) -> Path:
    """Where the run of one seed is."""
    return out / policy / f"seed_{seed}"


def evaluate_all(out: Path, policies: Sequence[str], seeds: Sequence[int], jobs: int) -> dict[str, Score]:
    """The final evaluation of each policy, in as many processes as there are jobs."""
    directories = [run_dir(out, policy, seed) for policy in policies for seed in seeds]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as executor:
        played = np.stack(list(executor.map(play_run, directories)))
    by_policy = played.reshape(len(policies), len(seeds), 2, EPISODES)
    return {policy: Score(*np.moveaxis(own, 1, 0)) for policy, own in zip(policies, by_policy, strict=True)}


def play_run(directory: Path) -> np.ndarray:
    """Returns and success of the run's latest policy in the final evaluation's episodes, `[2, EPISODES]`."""
    import torch

    from rlhive.play import load_policies, play
    from rlhive.training.evaluation import evaluation_seeds

    torch.set_num_threads(1)
    policies, step, _ = load_policies(directory)
    path = directory / f"episodes_{step}.npy"
    if not path.exists():
        episode_seeds = evaluation_seeds(EPISODES_SEED, EPISODES)
        outcome, _ = play(policies, EPISODES_SEED, episode_seeds, stochastic=False)
        with replacing(path) as beside:
            np.save(beside, np.stack([outcome.returns[0], outcome.success[0]]))
    return np.asarray(np.load(path))


def seeing_helps(scores: Mapping[str, Score]) -> bool:
    """Whether the CNN's mean return is higher than the blind policy's by MARGIN, and the intervals do not overlap."""
    cnn, blind = scores["cnn"].returns, scores["blind"].returns
    low, _ = hierarchical_interval(cnn, np.random.default_rng(0))
    _, high = hierarchical_interval(blind, np.random.default_rng(0))
    return bool(cnn.mean() - blind.mean() >= MARGIN and low > high)


def report(out: Path, scores: Mapping[str, Score], seeds: Sequence[int], steps: int) -> None:
    """Prints the table, and writes it to seeing.md and the picture to seeing.png."""
    text = format_table(scores, seeds, steps)
    write_text(out / "seeing.md", text)
    plot(out / "seeing.png", out, list(scores), seeds)
    sys.stdout.write(text)


def format_table(scores: Mapping[str, Score], seeds: Sequence[int], steps: int) -> str:
    """A Markdown table with a row for each policy, and whether seeing helps."""
    head = ["policy", "return (95 % interval)", "success (95 % interval)", "returns of the seeds"]
    rows = [head, ["---"] * len(head)]
    for policy, (returns, success) in scores.items():
        low, high = hierarchical_interval(returns, np.random.default_rng(0))
        least, most = hierarchical_interval(success, np.random.default_rng(0))
        rows.append(
            [
                policy,
                f"{returns.mean():.1f} ({low:.1f} to {high:.1f})",
                f"{success.mean():.0%} ({least:.0%} to {most:.0%})",
                ", ".join(f"{value:.1f}" for value in returns.mean(1)),
            ]
        )
    text = f"{steps:,} steps, seeds {', '.join(map(str, seeds))}, {EPISODES} episodes each\n\n"
    text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if {"cnn", "blind"} <= set(scores):
        answer = "yes" if seeing_helps(scores) else "no"
        text += f"\nThe CNN's return is higher by {MARGIN:g} or more and the intervals are apart: {answer}.\n"
    return text


def plot(path: Path, out: Path, policies: Sequence[str], seeds: Sequence[int]) -> None:
    """Draws return and success over environment steps: thin each seed, thick their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("returns", "success"), strict=True):
        for index, policy in enumerate(policies):
            curves = [read_curves(run_dir(out, policy, seed), [seed])[seed] for seed in seeds]
            for curve in curves:
                axes.plot(curve.steps, getattr(curve, name), color=f"C{index}", linewidth=0.8, alpha=0.6)
            mean = np.mean([getattr(curve, name) for curve in curves], axis=0)
            axes.plot(curves[0].steps, mean, color=f"C{index}", marker=".", linewidth=2, label=policy)
        axes.set(title="FrankaReachRandom, target only in the image", xlabel="environment steps", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


if __name__ == "__main__":
    start("seeing", main, define_flags, sys.argv)
