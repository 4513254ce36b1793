"""What recorded episodes teach: behaviour cloning with each head, IQL against it on mixed data, and the kitchen.

    python benchmarks/offline.py --task=heads --expert=runs/reach
    python benchmarks/offline.py --task=mixed --expert=runs/reach/checkpoints/8000
    python benchmarks/offline.py --task=kitchen --expert=runs/light

Each records the expert's episodes, trains on them, evaluates and prints a table: `python -m rlhive.data record`,
`rlhive.train` and `rlhive.evaluate`, one after another, in `<out>/<task>`. What is there already is not done again.
Mixed data are of an expert that explores: each of its actions is uniformly random with probability 0.5.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from absl import flags

from benchmarks.intervals import hierarchical_interval
from rlhive import load_torch
from rlhive.command import start
from rlhive.core.files import replacing, write_text
from rlhive.data import trace
from rlhive.data.episode import Episode
from rlhive.data.formats import episodes

FLAGS = flags.FLAGS
EVALUATION_SEED = 1  # others than those by which runs evaluate themselves
EPSILON = 0.5  # of mixed data
RESAMPLES = 2000


class Trial(NamedTuple):
    """One configuration to train: a gin file and bindings."""

    gin_file: str
    bindings: tuple[str, ...] = ()


class Task(NamedTuple):
    """What is recorded, by an expert that explores or one that does not, and trained."""

    environment: str
    explores: bool
    trials: dict[str, Trial]


HEADS = {head: Trial(f"bc_{head}.gin") for head in ("deterministic", "gaussian", "tanh_gaussian", "mixture")}
TASKS = {
    "heads": Task("FrankaReachRandom-v0", False, HEADS),
    "mixed": Task(
        "FrankaReachRandom-v0",
        True,
        {
            "bc_tanh_gaussian": HEADS["tanh_gaussian"],
            "iql": Trial("iql.gin"),
            "bc_gaussian": HEADS["gaussian"],
        },
    ),
    "kitchen": Task("FK1_LightOnRandom-v4", False, {"gaussian": HEADS["gaussian"]}),
}


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_enum("task", None, list(TASKS), "Which of the three.", required=True)
    flags.DEFINE_multi_string(
        "expert", None, "Run, or checkpoint of one, whose episodes are recorded; repeatable.", required=True
    )

    flags.DEFINE_string("seeds", "1,2,3,4,5", "The seeds that are trained side by side.")
    flags.DEFINE_integer("record", 100, "Episodes to record.", lower_bound=1)
    flags.DEFINE_integer("episodes", 100, "Episodes of each evaluation.", lower_bound=1)
    flags.DEFINE_integer("updates", 5000, "Gradient updates.", lower_bound=1)
    flags.DEFINE_multi_string("gin_bindings", [], "More bindings for every training.")
    flags.DEFINE_string("out", "runs/offline", "Directory of data, runs and tables.")


def main(argv: Sequence[str]) -> int:
    """Records, trains, evaluates, prints."""
    if len(argv) > 1:
        raise ValueError(f"unknown argument {argv[1]!r}; see --help")
    task, out = TASKS[FLAGS.task], Path(FLAGS.out) / FLAGS.task
    out.mkdir(parents=True, exist_ok=True)
    data = out / "demo.h5"
    if not data.exists():
        join([record(task, out, number) for number in range(len(FLAGS.expert))], data, task.environment)
    rows = [data_row(data)]
    rows += [row(name, trial, data, out / name) for name, trial in task.trials.items()]
    text = format_table(rows)
    write_text(out / "offline.md", text)
    sys.stdout.write(text)
    return 0


def record(task: Task, out: Path, number: int) -> Path:
    """Records an equal share of the episodes with one of the experts; no two play the same ones."""
    path = out / f"expert_{number}.h5"
    if not path.exists():
        expert, episodes = FLAGS.expert[number], FLAGS.record // len(FLAGS.expert)
        if task.explores:
            explore(task.environment, expert, episodes, number, path)
        else:
            arguments = [f"--env={task.environment}", f"--policy={expert}", f"--episodes={episodes}"]
            run("rlhive.data", "record", *arguments, f"--seed={number}", path)
    return path


def explore(environment: str, expert: str, episodes: int, seed: int, path: Path) -> None:
    """Records an expert each of whose actions is uniformly random with probability `EPSILON`."""
    load_torch()  # before anything that loads mujoco
    from rlhive.data.record import play
    from rlhive.envs.robohive import RoboHive
    from rlhive.policy_fn import load

    policy, env, rng = load(expert), RoboHive(environment), np.random.default_rng((seed, episodes))
    low, high = np.array(env.spec.action_low), np.array(env.spec.action_high)

    def act(seen: dict[str, np.ndarray], rest: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if rng.random() < EPSILON:
            return rng.uniform(low, high), None
        return policy(seen["observation"]), None

    with trace.trace_file(path, environment) as file:
        for number in range(episodes):
            first = env.reset(int(rng.integers(2**32, 2**63)))  # no seed of training or evaluation
            trace.write_trial(file, f"Trial{number}", play(env, first, act, env.spec.max_episode_steps))
    env.close()


def join(paths: Sequence[Path], out: Path, environment: str) -> None:
    """One file of the trials of several."""
    with trace.trace_file(out, environment) as file:
        for path in paths:
            with h5py.File(path) as source:
                for name in source:
                    source.copy(name, file, f"Trial{len(file)}")


def run(module: str, *arguments: object) -> str:
    """Runs `python -m module`; its stdout."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def data_row(data: Path) -> list[str]:
    """The recorded episodes themselves."""
    played = [episode for episode in episodes(data, "trace") if isinstance(episode, Episode)]
    success = np.mean([episode.success for episode in played])
    returns = np.mean([episode.total_reward for episode in played])
    return [f"the data, {len(played)} episodes", "-", f"{success:.1%}", f"{returns:.1f}"]


def evaluate(run_dir: Path) -> np.ndarray:
    """Success and return of every seed in the same episodes, `[2, S, episodes]`, as `rlhive.evaluate` counts them."""
    load_torch()  # before anything that loads mujoco
    import torch

    from rlhive.play import load_policies, play
    from rlhive.training.evaluation import evaluation_seeds

    torch.set_num_threads(1)
    policies, *_ = load_policies(run_dir)
    episode_seeds = evaluation_seeds(EVALUATION_SEED, FLAGS.episodes)
    outcome, _ = play(policies, EVALUATION_SEED, episode_seeds, stochastic=False)
    return np.stack([outcome.success, outcome.returns])


def row(name: str, trial: Trial, data: Path, folder: Path) -> list[str]:
    """Trains and evaluates one configuration; a row of the table."""
    if not (folder / "report.html").exists():
        started = time.monotonic()
        bindings = [f"DATASET='{data}'", f"SEEDS=({FLAGS.seeds},)", f"TOTAL_STEPS={FLAGS.updates}"]
        bindings += [f"train.evaluate_every={FLAGS.updates}", *trial.bindings, *FLAGS.gin_bindings]
        arguments = [f"--gin_bindings={binding}" for binding in bindings]
        run("rlhive.train", f"--gin_file={trial.gin_file}", f"--run_dir={folder}", *arguments)
        write_text(folder / "seconds.txt", f"{time.monotonic() - started:.0f}")
    if not (folder / "episodes.npy").exists():
        with replacing(folder / "episodes.npy") as beside:
            np.save(beside, evaluate(folder))
    success, returns = np.load(folder / "episodes.npy")
    return [name, (folder / "seconds.txt").read_text(), _cell(success, 100, "%"), _cell(returns, 1, "")]


def _cell(values: np.ndarray, scale: float, unit: str) -> str:
    """Mean and interval of `[S, n]`."""
    ends = hierarchical_interval(values, np.random.default_rng(0), resamples=RESAMPLES)
    mean, low, high = (scale * value for value in (values.mean(), *ends))
    return f"{mean:.1f}{unit} ({low:.1f} to {high:.1f})"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: a row per configuration, means over seeds and episodes, and their 95 % intervals."""
    head = ["", "seconds for all seeds", "success", "return"]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    start("offline", main, define_flags, sys.argv)
