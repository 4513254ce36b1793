"""Loads a trained policy from files or trees, and refuses parts that do not belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from rlhive.algorithms import POLICY_KEYS
from rlhive.core.errors import LoadError, NotFiniteActionError
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.bundle import is_bundle, read_bundle
from rlhive.policy_fn.bundle_files import NO_CHECKPOINT
from rlhive.policy_fn.observation import example_observation
from rlhive.policy_fn.policy import Policy
from rlhive.policy_fn.tree_checks import check_env_state, check_params
from rlhive.runs.checkpoint_files import read_file
from rlhive.runs.run_files import CHECKPOINTS, PathLike, choose_checkpoint, part_path, seed_dirs
from rlhive.runs.run_spec import RunSpec

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load(
    params: PathLike | Params,
    env_state: PathLike | EnvState | None = None,
    *,
    spec: RunSpec | PathLike | None = None,
    seed: int | None = None,
    step: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """Loads a policy: `load(directory)`, or `load(params, env_state)` of two files, two trees, or one of each.

    Args:
        params: a `params.safetensors`, or the tree of one seed; alone, the directory of a bundle, run or checkpoint.
        env_state: the `env_state.safetensors` saved with it, or the tree of one seed.
        spec: the run's `RunSpec` or `spec.json`; required for two trees, while files contain theirs.
        seed: which seed of a directory that holds several.
        step: which checkpoint of a run; the latest by default.
        device: where the policy computes.
        dtype: what it computes in, one of `DTYPES`; only float32 gives the bits of training.

    Raises:
        LoadError: something is missing, damaged, not finite, a pickle, or from another environment, run,
            seed, step, network or format version; one line that says which.
        NotFiniteActionError: its actions are not finite, although its parameters and constants are.
    """
    if env_state is None and is_bundle(params):
        return _policy(str(params), *_read_bundle(params, spec, seed, step), device, dtype)
    if env_state is None:
        folder = seed_dir(params, seed, step)
        params, env_state = part_path(folder, "params"), part_path(folder, "env_state")
    elif seed is not None or step is not None:
        raise LoadError("seed and step choose in a run's directory; params and env_state are of one already")
    origins = [_Origin("spec", _read_spec(spec), None, None)] if spec is not None else []
    tree, where = _read(params, "params", origins)
    constants, where_constants = _read(env_state, "env_state", origins)
    run = _common_spec(origins)
    for origin in origins:
        _check_place(origin)
    check_params(where, tree, run)
    check_env_state(where_constants, constants, run)
    return _policy(where, run, tree, constants, device, dtype)


def _policy(
    where: str,
    spec: RunSpec,
    params: Params,
    env_state: EnvState,
    device: str | torch.device,
    dtype: torch.dtype,
) -> Policy:
    """The policy on its own copies of the trees. It has acted once, since the first call is many times slower."""
    if dtype not in DTYPES:
        raise LoadError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    if spec.encoder is not None and "encoder" not in params.keys():  # noqa: SIM118
        params = params.copy().update({"encoder": spec.encoder.init(torch.Generator())})
    try:
        params, env_state = (
            tree.detach().clone().to(device, dtype=dtype).lock_()
            for tree in (params.select(*POLICY_KEYS[spec.algorithm], strict=False), env_state)
        )
        env_state["observation", "count"].item()  # "meta" holds no values
    except RuntimeError as error:
        raise LoadError(f"device {device}: {str(error).splitlines()[0]}") from None
    policy = Policy(spec, params, env_state)
    try:
        policy(example_observation(spec.env))
    except NotFiniteActionError as error:
        raise NotFiniteActionError(f"{where}: {error}: the training of this seed diverged") from None
    return policy


def _read_bundle(
    folder: PathLike, spec: object, seed: int | None, step: int | None
) -> tuple[RunSpec, Params, EnvState]:
    bundle = read_bundle(folder)
    if seed is not None or step is not None:
        raise LoadError(f"{folder}: is a bundle of one seed and step, which cannot be chosen")
    if spec is not None:
        raise LoadError(f"{folder}: is a bundle, which has its own description; leave out spec")
    return bundle[:3]


class _Origin(NamedTuple):
    where: str
    spec: RunSpec
    seed: int | None
    step: int | None


def seed_dir(path: PathLike | Params, seed: int | None = None, step: int | None = None) -> Path:
    """The directory with the files of one seed of a run or checkpoint.

    Raises:
        LoadError: there is none, or several and no choice.
    """
    if isinstance(path, TensorDict) or Path(_path(path, "params")).is_file():
        raise LoadError("env_state is missing: pass the env_state that was saved with params as well")
    folder = Path(path)
    if not folder.is_dir():
        raise LoadError(f"{folder}: there is no such file or directory")
    if is_bundle(folder) and not part_path(folder, "params").exists():
        raise LoadError(f"{folder}: {NO_CHECKPOINT}")
    folder = choose_checkpoint(folder, step)
    folders = seed_dirs(folder)
    seeds = ", ".join(map(str, folders))
    if seed is None and len(folders) > 1:
        raise LoadError(
            f"{folder}: holds several seeds, choose one with seed=: {seeds}; or give the directory of one, such as "
            f"{next(iter(folders.values()))}"
        )
    if seed is not None and seed not in folders:
        raise LoadError(f"{folder}: has no seed {seed!r}, but {seeds}")
    return folders[next(iter(folders)) if seed is None else seed]


def _read_spec(spec: RunSpec | PathLike) -> RunSpec:
    if isinstance(spec, RunSpec):
        return spec
    if not isinstance(spec, str | os.PathLike):
        raise LoadError(f"spec must be a RunSpec or the path of a spec.json, got {type(spec).__name__}")
    try:
        return RunSpec.from_json(Path(spec).read_text(), spec)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{spec}: cannot be read: {error}") from None


def _read(source: PathLike | TensorDict | None, kind: str, origins: list[_Origin]) -> tuple[TensorDict, str]:
    """The tree and its name for messages; adds the origin of a file to `origins`."""
    if isinstance(source, TensorDict):
        return source, kind
    tree, header = read_file(_path(source, kind), kind)
    origins.append(_Origin(str(source), header.spec, header.seed, header.step))
    return tree, str(source)


def _path(source: Any, kind: str) -> PathLike:
    if not isinstance(source, str | os.PathLike):
        raise LoadError(f"{kind} must be a path or a TensorDict, got {type(source).__name__}")
    return source


def _common_spec(origins: Sequence[_Origin]) -> RunSpec:
    if not origins:
        raise LoadError(
            "two trees do not say what they are of: pass spec=, the RunSpec or the run's spec.json"
        )
    for other in origins[1:]:
        _check_same(origins[0], other)
    return origins[0].spec


def _check_same(one: _Origin, other: _Origin) -> None:
    pairs = {
        "environment": (one.spec.env.name, other.spec.env.name),
        "run": (one.spec.run_id, other.spec.run_id),
        "seed": (one.seed, other.seed),
        "step": (one.step, other.step),
    }
    for what, (first, second) in pairs.items():
        if first != second and None not in (first, second):
            raise LoadError(
                f"{other.where}: is of another {what} ({second}) than {one.where} ({first}); "
                "take both from one checkpoint"
            )
    fields, others = _fields(one.spec), _fields(other.spec)
    for name in fields | others:
        if fields.get(name) != others.get(name):
            raise LoadError(
                f"{other.where}: says {name} is {others.get(name)}, but {one.where} says {fields.get(name)}; one of "
                "them was changed or damaged, copy the checkpoint again"
            )


def _fields(spec: RunSpec) -> dict[str, Any]:
    """The fields that two descriptions of one run must agree on, such as "env.dt"; its data set may have moved."""
    values = {key: value for key, value in spec.to_dict().items() if key != "versions"}
    fields = {".".join(path): value for path, value in _leaves(values)}
    fields.pop("dataset.path", None)
    return fields


def _leaves(values: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, *path, key)
        else:
            yield (*path, key), value


def _check_place(origin: _Origin) -> None:
    """Refuses files in a directory that is named after another seed or step, as after renaming."""
    folder = Path(origin.where).absolute().parent
    seed = re.fullmatch(r"seed_(\d+)", folder.name)
    checkpoint = folder.parent if seed else folder
    step = re.fullmatch(r"\d+", checkpoint.name) if checkpoint.parent.name == CHECKPOINTS else None
    places = (
        (folder, "seed", seed and int(seed[1]), origin.seed),
        (checkpoint, "step", step and int(step[0]), origin.step),
    )
    for place, what, named, found in places:
        if None not in (named, found) and named != found:
            raise LoadError(
                f"{place}: holds {what} {found}: the directories were renamed; name them as before"
            )
