"""Checkpoints: `checkpoints/<step>/{params,env_state,train_state}.safetensors`, complete or absent.

With several seeds, the files of each are in `checkpoints/<step>/seed_<seed>/`, exactly like those of a run of that seed
alone. `checkpoints/latest` is a relative link to the newest step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.errors import LoadError
from rlhive.core.files import flush
from rlhive.core.tree import stack_seeds
from rlhive.core.tree_file import named_leaves
from rlhive.core.types import TrainState
from rlhive.runs.checkpoint_files import PARTS, TRAINING, read_seed, write_seed
from rlhive.runs.run_files import CHECKPOINTS, LATEST, PathLike, checkpoint_dir, part_path, seed_dirs
from rlhive.runs.run_spec import RunSpec

BEFORE = ".tmp-before-"


class Checkpoint(NamedTuple):
    """What `load_checkpoint` returns.

    Attributes:
        state: the train state `[S]`.
        rollout: the state of the training environments, `[S]`.
        generators: for each name the generators' states, uint8, one per seed, for `generator.set_state`.
        progress: one mapping per seed, as saved.
        step: environment steps per seed so far; offline, gradient updates.
        spec: of the run.
    """

    state: TrainState
    rollout: TensorDict
    generators: dict[str, list[Tensor]]
    progress: list[dict[str, Any]]
    step: int
    spec: RunSpec


def save_checkpoint(
    run_dir: PathLike,
    step: int,
    state: TrainState,
    spec: RunSpec,
    *,
    seeds: Sequence[int],
    rollout: TensorDict,
    generators: Mapping[str, Sequence[Generator]],
    progress: Sequence[Mapping[str, Any]],
) -> Path:
    """Writes the checkpoint of one step, and then makes it the latest; each is atomic.

    Args:
        run_dir: the run's directory.
        step: as in `Checkpoint`; an existing checkpoint of this step is replaced.
        state: the train state `[S]`.
        spec: of the run.
        seeds: the S seeds, each once.
        rollout: the state of the training environments, `[S]`.
        generators: for each name one generator per seed.
        progress: a mapping of plain JSON values per seed.

    Returns:
        The checkpoint's directory.

    Raises:
        ValueError: a value of the state is not finite, or there is not one state, generator and mapping per seed;
            nothing is written.
        OSError: writing fails, for example because the disk is full; earlier checkpoints stay as they are.
    """
    _check_seeds(seeds, state, generators, progress)
    _check_finite(seeds, state)
    root = Path(run_dir) / CHECKPOINTS
    root.mkdir(parents=True, exist_ok=True)
    recover_checkpoints(run_dir)
    for left_over in root.glob(".tmp-*"):  # left by a process that was killed
        shutil.rmtree(left_over)
    beside, final = root / f".tmp-{step}", root / str(step)
    try:
        for index, seed in enumerate(seeds):
            folder = beside / f"seed_{seed}" if len(seeds) > 1 else beside
            own = {name: of_seed[index].get_state() for name, of_seed in generators.items()}
            header = {"spec": spec, "seed": seed, "step": step, "progress": progress[index]}
            write_seed(folder, _trees(state[index], rollout[index], own), header)
        flush(beside)
        _replace_directory(beside, final)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _point_latest(root, step)
    return final


def load_checkpoint(run_dir: PathLike, seeds: Sequence[int], *, step: int | None = None) -> Checkpoint:
    """Reads what `save_checkpoint` wrote, bit for bit, onto the CPU.

    Args:
        run_dir: the run's directory.
        seeds: the seeds of the run, in the order wanted for `[S]`.
        step: which checkpoint; the latest by default.

    Raises:
        LoadError: there is none, its seeds differ, or a file is damaged or belongs to another run.
    """
    folder = checkpoint_dir(run_dir, step)
    folders = seed_dirs(folder)
    if sorted(folders) != sorted(seeds):
        raise LoadError(
            f"{folder}: holds the seeds {sorted(folders)}, but {sorted(seeds)} are requested: a run continues with all "
            "of its seeds; without --gin_file its own config.gin names them"
        )
    parts = [read_seed(folders[seed]) for seed in seeds]
    header = parts[0].header
    if any(part.header.origin != header.origin for part in parts):
        raise LoadError(f"{folder}: its files are of different runs or steps; copy the checkpoint again")
    for seed, part in zip(seeds, parts, strict=True):
        if part.header.seed != seed:
            raise LoadError(
                f"{folders[seed]}: holds seed {part.header.seed}: the directories were renamed; restore their names"
            )
    names = parts[0].generators
    return Checkpoint(
        state=stack_seeds([part.state for part in parts]),
        rollout=stack_seeds([part.rollout for part in parts]),
        generators={name: [part.generators[name] for part in parts] for name in names},
        progress=[dict(part.header.progress) for part in parts],
        step=header.step,
        spec=header.spec,
    )


def replace_checkpoint(run_dir: PathLike, step: int, folders: Mapping[int, Path]) -> None:
    """Atomically replaces the checkpoint of one step with copies of each seed's files in `folders`."""
    root = Path(run_dir) / CHECKPOINTS
    beside = root / f".tmp-{step}"
    shutil.rmtree(beside, ignore_errors=True)
    for seed, folder in folders.items():
        own = beside / f"seed_{seed}"
        own.mkdir(parents=True)
        for part in PARTS:
            shutil.copyfile(part_path(folder, part), part_path(own, part))
            flush(part_path(own, part))
        flush(own)
    flush(beside)
    _replace_directory(beside, root / str(step))


def recover_checkpoints(run_dir: PathLike) -> None:
    """Puts back a checkpoint that a killed process had not yet replaced, and removes one that it had.

    To be called only by the process that trains in `run_dir`: it would disturb another one that replaces a checkpoint.
    """
    for before in (Path(run_dir) / CHECKPOINTS).glob(f"{BEFORE}*"):
        final = before.with_name(before.name.removeprefix(BEFORE))
        if final.exists():
            shutil.rmtree(before)
        else:
            before.rename(final)


def _check_seeds(
    seeds: Sequence[int],
    state: TrainState,
    generators: Mapping[str, Sequence[Generator]],
    progress: Sequence[Mapping[str, Any]],
) -> None:
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"a checkpoint needs at least one seed, each once, got {list(seeds)}")
    if tuple(state.batch_size) != (len(seeds),):
        raise ValueError(
            f"the state's batch size is {list(state.batch_size)}, but there are {len(seeds)} seeds"
        )
    if not generators or any(len(of_seed) != len(seeds) for of_seed in generators.values()):
        raise ValueError(f"a checkpoint needs generators, one per seed for each name, of {len(seeds)} seeds")
    if len(progress) != len(seeds):
        raise ValueError(f"a checkpoint needs progress for each of {len(seeds)} seeds, got {len(progress)}")


def _check_finite(seeds: Sequence[int], state: TrainState) -> None:
    for name, leaf in named_leaves(state).items():
        finite = torch.isfinite(leaf).reshape(len(seeds), -1).all(-1).tolist()
        if not all(finite):
            seed = seeds[finite.index(False)]
            raise ValueError(f"{name} of seed {seed} is not finite: not saved, earlier checkpoints are kept")


def _trees(state: TrainState, rollout: TensorDict, generators: dict[str, Tensor]) -> dict[str, TensorDict]:
    """What each of a seed's files holds, by `PARTS`."""
    rest = TensorDict({key: state[key] for key in TRAINING}, batch_size=[])
    rest.update({"rollout": rollout, "generators": TensorDict(generators)})
    return {"params": state["params"], "env_state": state["env_state"], "train_state": rest}


def _replace_directory(beside: Path, final: Path) -> None:
    before = final.with_name(f"{BEFORE}{final.name}")
    if final.exists():  # a directory that is not empty cannot be replaced atomically
        final.rename(before)
    beside.rename(final)
    flush(final.parent)
    shutil.rmtree(before, ignore_errors=True)


def _point_latest(root: Path, step: int) -> None:
    link = root / f".{LATEST}.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(str(step), target_is_directory=True)
    os.replace(link, root / LATEST)
    flush(root)
