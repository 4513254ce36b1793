"""Going on with a run: what its checkpoint says of its seeds, and whether it is the run that is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.checkpoint import Checkpoint
from rlhive.core.replay import ReplayBuffer
from rlhive.core.run_spec import RunSpec
from rlhive.core.tree_file import LoadError
from rlhive.core.types import TrainState

if TYPE_CHECKING:
    from rlhive.config import TrainConfig


class Stopped(NamedTuple):
    """A seed that no longer trains: its last good state, rollout and generators, when it stopped, and why."""

    state: TrainState
    rollout: TensorDict
    generators: Mapping[str, torch.Generator]
    step: int
    reason: str


def restore_stopped(
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


def restore_metrics(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The metrics `[S]` of the latest update of the seeds that train; none where it was before the first."""
    rows = [own.get("metrics", {}) for own in checkpoint.counters if "stopped_at" not in own]
    return {name: torch.tensor([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def check_same(run_dir: Path, saved: RunSpec, now: RunSpec) -> RunSpec:
    """The spec of a run that goes on with the present configuration.

    Raises:
        LoadError: the two differ, in what.
    """
    for name in ("algorithm", "env", "encoder", "network", "dataset"):
        if getattr(saved, name) != getattr(now, name):
            difference = _difference(getattr(saved, name), getattr(now, name))
            raise LoadError(f"{run_dir}: cannot be resumed with another {name}: {difference}")
    return saved


def _difference(saved: Any, now: Any) -> str:
    if not attrs.has(type(saved)):
        return f"{saved!r} there, {now!r} in the configuration"
    names = [field.name for field in attrs.fields(type(saved)) if field.eq]
    pairs = {name: (getattr(saved, name), getattr(now, name)) for name in names}
    return "; ".join(f"{name} is {_difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1])


def load_replay(replay: ReplayBuffer, run_dir: Path, step: int) -> None:
    """Fills a replay with what was saved at a step.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        replay.load(replay_path(run_dir, step))
    except (ValueError, OSError) as error:
        raise LoadError(f"{run_dir}: its replay cannot be read: {error}") from None


def replay_path(run_dir: Path, step: int) -> Path:
    """Where the replay of a step is."""
    return run_dir / "replay" / f"{step}.safetensors"
