"""The files of one seed in a checkpoint, `{params,env_state,train_state}.safetensors`, and their headers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs
from tensordict import TensorDict
from torch import Tensor

from rlhive.algorithms import ALGORITHMS
from rlhive.core.errors import LoadError
from rlhive.core.files import flush
from rlhive.core.tree_file import check_names, read_tree, write_tree
from rlhive.core.tree_header import check_kind
from rlhive.core.types import TrainState
from rlhive.runs.run_files import part_path, progress_in
from rlhive.runs.run_spec import RunSpec

PARTS = ("params", "env_state", "train_state")
TRAINING = ("target_params", "opt_state", "step")  # parts of the train state that are in the third file


@attrs.frozen
class Header:
    """The contents of each file's header.

    Attributes:
        kind: which of `PARTS` the file holds.
        spec: of the run.
        seed: the seed that the file is of.
        step: environment steps per seed so far; offline, gradient updates.
        progress: what else the training loop keeps for the seed; plain JSON values, in "train_state" only.
    """

    kind: str
    spec: RunSpec
    seed: int
    step: int
    progress: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def origin(self) -> tuple[str, int]:
        """The run_id and the step that the file is of."""
        return self.spec.run_id, self.step


def read_part(folder: Path, kind: str) -> tuple[TensorDict, Header]:
    """The file of that kind in a seed's folder of a checkpoint; it raises as `read_file` does."""
    return read_file(part_path(folder, kind), kind)


def read_file(path: str | os.PathLike[str], kind: str) -> tuple[TensorDict, Header]:
    """One file of a checkpoint: its tree, batch size `[]`, and its header.

    Raises:
        LoadError: the file or its header is damaged, or of another kind or format.
    """
    tree, fields = read_tree(path)
    check_kind(path, fields, kind)
    spec = RunSpec.from_json(fields.get("spec", ""), f"{path}, spec in its header")
    progress = progress_in(path, fields)
    numbers = [fields.get(name, "") for name in ("seed", "step")]
    if not all(number.isdecimal() for number in numbers) or fields.get("run_id") != spec.run_id:
        raise LoadError(f"{path}: seed, step or run_id in its header are missing or inconsistent")
    return tree, Header(kind, spec, int(numbers[0]), int(numbers[1]), progress)


class SeedFiles(NamedTuple):
    """The contents of the three files: trees of batch size `[]`, and the generators' states, uint8, by name."""

    state: TrainState
    rollout: TensorDict
    generators: dict[str, Tensor]
    header: Header


def write_seed(folder: Path, trees: Mapping[str, TensorDict], header: Mapping[str, Any]) -> None:
    """Writes a seed's files into a new folder.

    Args:
        folder: the new folder.
        trees: one of batch size `[]` for each of `PARTS`.
        header: the fields of `Header` except `kind`; `progress` is written to "train_state" only.
    """
    folder.mkdir(parents=True)
    for kind in PARTS:
        write_tree(part_path(folder, kind), trees[kind], _fields(Header(kind, **header)))
    flush(folder)


def read_seed(folder: Path) -> SeedFiles:
    """Reads what `write_seed` wrote.

    Raises:
        LoadError: a file is missing or damaged, the files are of different runs, seeds or steps, or they lack
            something that the algorithm trains with.
    """
    read = {kind: read_part(folder, kind) for kind in PARTS}
    header = read["train_state"][1]
    if any(other.origin != header.origin or other.seed != header.seed for _, other in read.values()):
        raise LoadError(
            f"{folder}: its files are of different runs, seeds or steps; copy the checkpoint again"
        )
    # Files need not contain these if they have no leaves.
    rest = TensorDict({"target_params": {}, "opt_state": {}, "rollout": {"explore": {}}})
    rest.update(read["train_state"][0])
    path, algorithm = part_path(folder, "train_state"), ALGORITHMS[header.spec.algorithm]
    check_names(path, {*TRAINING, "rollout", "generators"}, rest.keys())
    check_names(f"{path}, its target_params", algorithm.target_keys, rest["target_params"].keys())
    if not algorithm.offline:
        check_names(f"{path}, its rollout", ("explore", "episodes", "normalizer"), rest["rollout"].keys())
    state = {
        "params": read["params"][0],
        "target_params": rest["target_params"],
        "opt_state": rest["opt_state"],
        "env_state": read["env_state"][0],
        "step": rest["step"],
    }
    return SeedFiles(
        TensorDict(state, batch_size=[]), rest["rollout"], dict(rest["generators"].items()), header
    )


def _fields(header: Header) -> dict[str, str]:
    return {
        "kind": header.kind,
        "spec": json.dumps(header.spec.to_dict()),
        "run_id": header.spec.run_id,
        "seed": str(header.seed),
        "step": str(header.step),
        "progress": json.dumps(dict(header.progress) if header.kind == "train_state" else {}),
    }
