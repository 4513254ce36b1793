"""The bundle: one directory with all that a trained policy needs on a robot, each byte of it accounted for.

params.safetensors      the subtrees that the policy reads
env_state.safetensors   the constants that normalise the observation
spec.json               what the policy is of, in words that other programs can read; binds the files by their hashes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rlhive
from rlhive.core.errors import LoadError
from rlhive.core.run_spec import RunSpec
from rlhive.core.tree_file import check_names, flush, read_tree, write_tree
from rlhive.core.types import EnvState, Params
from rlhive.losses_fn import POLICY_KEYS
from rlhive.policy_fn.tree_checks import check_env_state, check_params

BUNDLE_VERSION = 1
SPEC = "spec.json"
TREES = {"params.safetensors": "bundle_params", "env_state.safetensors": "bundle_env_state"}
MAX_SPEC_BYTES, MAX_TREE_BYTES = 1 << 20, 1 << 28
PathLike = str | os.PathLike[str]


class Bundle(NamedTuple):
    """What `read_bundle` gives: the run it is of, the trees, batch size `[]`, and where in the run they are from."""

    spec: RunSpec
    params: Params
    env_state: EnvState
    seed: int
    step: int


def is_bundle(path: Any) -> bool:
    """Whether a directory is meant to be a bundle: it has a spec.json, and no checkpoints as a run has."""
    if not isinstance(path, str | os.PathLike):
        return False
    return (Path(path) / SPEC).exists() and not (Path(path) / "checkpoints").exists()


def write_bundle(folder: PathLike, bundle: Bundle, extras: Sequence[Path] = ()) -> None:
    """Writes a bundle beside `folder` and renames it in one step.

    Args:
        folder: the directory to make; nothing may be there yet.
        bundle: what to write; of the parameters only what the policy reads.
        extras: more files to take in, such as `policy.onnx`.

    Raises:
        LoadError: `folder` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise LoadError(f"{folder}: is there already; name another directory")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    beside.mkdir(parents=True)
    try:
        header = {
            "run_id": bundle.spec.run_id,
            "seed": str(bundle.seed),
            "step": str(bundle.step),
        }
        trees = (bundle.params.select(*POLICY_KEYS[bundle.spec.algorithm]), bundle.env_state)
        for (name, kind), tree in zip(TREES.items(), trees, strict=True):
            write_tree(beside / name, tree, {**header, "kind": kind})
        for extra in extras:
            shutil.copyfile(extra, beside / extra.name)
        files = {name: file_record(beside / name) for name in [*TREES, *(path.name for path in extras)]}
        (beside / SPEC).write_text(spec_text(describe(bundle.spec, bundle.seed, bundle.step, files)))
        for name in [*files, SPEC, "."]:
            flush(beside / name)
        beside.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_bundle(folder: PathLike) -> Bundle:
    """Reads what `write_bundle` wrote, after comparing all of it with its hashes and with itself.

    Raises:
        LoadError: anything is missing, damaged, changed, not finite or of something else; one line with the file's
            name and the reason.
    """
    folder = Path(folder)
    values = read_spec(folder / SPEC)
    for name in TREES:
        _check_file(folder / name, values["files"][name])
    spec = RunSpec.from_dict(values["run"], folder / SPEC)
    trees = []
    for name, kind in TREES.items():
        tree, header = read_tree(folder / name)
        expected = {
            "kind": kind,
            "run_id": spec.run_id,
            **{key: str(values[key]) for key in ("seed", "step")},
        }
        for key, value in expected.items():
            if header.get(key) != value:
                raise LoadError(
                    f"{folder / name}: its {key} is {header.get(key)!r}, but {value!r} in {SPEC}; export again"
                )
        trees.append(tree)
    check_params(str(folder / "params.safetensors"), trees[0], spec)
    check_env_state(str(folder / "env_state.safetensors"), trees[1], spec)
    return Bundle(spec, trees[0], trees[1], values["seed"], values["step"])


def describe(spec: RunSpec, seed: int, step: int, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of spec.json, but for its own hash; `docs/deployment.md` explains each field."""
    env = spec.env
    parts = zip(env.observation_keys, env.observation_slices, strict=True)
    actions = zip(env.action_names, env.action_low, env.action_high, strict=True)
    return {
        "bundle_version": BUNDLE_VERSION,
        "algorithm": spec.algorithm,
        "environment": env.name,
        "dt": env.dt,
        "observation": [
            {"name": name, "shape": [stop - start], "dtype": "float32", "slice": [start, stop]}
            for name, (start, stop) in parts
        ],
        "action": [
            {"name": name, "low": low, "high": high, "scale": (high - low) / 2} for name, low, high in actions
        ],
        "encoder": None,
        "cameras": list(env.pixels.cameras) if env.pixels else [],
        "image_size": [env.pixels.height, env.pixels.width] if env.pixels else None,
        "encoder_weights_sha256": None,
        "versions": spec.versions,
        "exported_by": f"rlhive {rlhive.__version__}",
        "seed": seed,
        "step": step,
        "run": spec.to_dict(),
        "files": dict(files),
    }


def spec_text(values: Mapping[str, Any]) -> str:
    """The text of spec.json: `describe`'s values and the hash of their text."""
    text = json.dumps(values)
    return json.dumps({**values, "sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=2) + "\n"


def read_spec(path: Path) -> dict[str, Any]:
    """The values of a spec.json, which say nothing but what its run says.

    Raises:
        LoadError: it is missing, damaged, changed, or of another version.
    """
    _check_size(path, MAX_SPEC_BYTES)
    try:
        text = path.read_bytes().decode()
        values = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path}: is not a bundle's description: {error}") from None
    if not isinstance(values, dict) or values.get("bundle_version") != BUNDLE_VERSION:
        version = values.get("bundle_version") if isinstance(values, dict) else None
        raise LoadError(
            f"{path}: unknown bundle version {version!r}, this version of rlhive reads {BUNDLE_VERSION}"
        )
    return _checked(path, values, text)


def _checked(path: Path, values: dict[str, Any], text: str) -> dict[str, Any]:
    stored = {key: value for key, value in values.items() if key != "sha256"}
    if spec_text(stored) != text:
        raise LoadError(f"{path}: was changed or damaged (its sha256 does not fit); copy or export it again")
    run, files = stored.get("run"), stored.get("files")
    if not isinstance(run, dict) or not isinstance(files, dict):
        raise LoadError(f"{path}: has no run or no files; export it again")
    check_names(f"{path}, files", TREES, set(files) & set(TREES))
    spec, seed, step = RunSpec.from_dict(run, path), stored.get("seed"), stored.get("step")
    if type(seed) is not int or type(step) is not int:
        raise LoadError(f"{path}: seed and step must be whole numbers, got {seed!r} and {step!r}")
    expected = describe(spec, seed, step, files)
    check_names(path, expected, stored)
    expected["exported_by"] = stored["exported_by"]
    for key, value in expected.items():
        if json.dumps(stored[key]) != json.dumps(value):
            raise LoadError(f"{path}: {key!r} does not fit the run it describes; export it again")
    return stored


def file_record(path: Path) -> dict[str, Any]:
    """What spec.json says of a file: its size and hash."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_file(path: Path, record: Any) -> None:
    if not isinstance(record, dict) or set(record) != {"bytes", "sha256"}:
        raise LoadError(f"{path}: {SPEC} does not say its size and hash; export it again")
    _check_size(path, MAX_TREE_BYTES)
    size = path.stat().st_size
    if size != record["bytes"]:
        raise LoadError(
            f"{path}: has {size} bytes instead of {record['bytes']}: damaged, or of another bundle"
        )
    if file_record(path) != record:
        raise LoadError(
            f"{path}: its content is not what was exported (sha256 differs): damaged, or of another bundle"
        )


def _check_size(path: Path, most: int) -> None:
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    if (size := path.stat().st_size) > most:
        raise LoadError(f"{path}: has {size} bytes, more than the {most} that such a file may have")
