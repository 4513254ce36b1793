"""Stops seeds before the end of a run; the others continue as if those had never been there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.types import TrainState
from rlhive.progress import Progress
from rlhive.runs.run_files import NOT_FINITE

if TYPE_CHECKING:
    from rlhive.training.run import Run


# What `metrics["finite"]` of a train step tells about.
UPDATED = "loss, a parameter or the optimizer's state"


class Stopped(NamedTuple):
    """A seed that no longer trains: its last good state, rollout and generators, when it stopped, and why."""

    state: TrainState
    rollout: TensorDict
    generators: Mapping[str, torch.Generator]
    step: int
    reason: str


def stopped_text(stopped: Mapping[int, Stopped]) -> str:
    """Which seeds stopped, when and why, in one line."""
    return ", ".join(f"seed {seed} at step {one.step} ({one.reason})" for seed, one in stopped.items())


def stop_seeds(run: Run, reasons: Mapping[int, str], states: Mapping[int, TrainState]) -> list[int]:
    """Stops seeds of a run; the others continue as if those had never been there.

    Args:
        run: the run, between two steps of its environments.
        reasons: why each of the seeds stops.
        states: the states to keep for seeds whose present state is not good.

    Returns:
        The indices, in the `[S]` before, of the seeds that continue.
    """
    run.store_step()
    for seed, reason in reasons.items():
        index = run.seeds.index(seed)
        state = states.get(seed, run.state[index])
        run.stopped[seed] = Stopped(state, run.rollout[index], run.generators[index], run.step, reason)
    kept = [index for index, seed in enumerate(run.seeds) if seed not in reasons]
    run.keep(kept)
    return kept


def stop_broken(
    run: Run, broken: Mapping[int, str], good_states: Mapping[int, TrainState], progress: Progress
) -> list[int]:
    """Stops seeds at their last good state and logs what is not finite; returns the indices of those that continue."""
    for seed, what in broken.items():
        progress.note(
            f"seed {seed}: the {what} is not finite at step {run.step}; it stops at its last good state"
        )
    return stop_seeds(run, dict.fromkeys(broken, NOT_FINITE), good_states)


def not_finite(run: Run, values: Tensor) -> list[int]:
    """The seeds with a value in `[S, ...]` that is not finite."""
    finite = values.isfinite().flatten(1).all(-1).tolist()
    return [seed for seed, good in zip(run.seeds, finite, strict=True) if not good]
