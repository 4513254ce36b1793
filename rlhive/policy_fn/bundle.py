"""The bundle: one directory with everything that a trained policy needs on a robot.

params.safetensors      the parameters that the policy reads
env_state.safetensors   the constants that normalise the observation
spec.json               what the policy is, for other programs to read; holds the size and SHA-256 of every other file
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rlhive
from rlhive.algorithms import POLICY_KEYS
from rlhive.core.errors import LoadError
from rlhive.core.files import replacing_directory
from rlhive.core.tree_file import check_names, read_tree, write_tree
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.bundle_files import (
    BUNDLE_VERSION,
    SPEC,
    check_file,
    check_size,
    file_record,
    read_spec,
    spec_text,
    text_hash,
)
from rlhive.policy_fn.r3m import R3M
from rlhive.policy_fn.tree_checks import check_env_state, check_params
from rlhive.runs.run_files import CHECKPOINTS, PathLike
from rlhive.runs.run_spec import RunSpec

TREES = {"params.safetensors": "bundle_params", "env_state.safetensors": "bundle_env_state"}


class Bundle(NamedTuple):
    """The content of a bundle: the spec of its run, the trees of batch size `[]`, and their seed and step."""

    spec: RunSpec
    params: Params
    env_state: EnvState
    seed: int
    step: int


def is_bundle(path: Any) -> bool:
    """Whether a directory is meant to be a bundle: it has a spec.json, and no checkpoints as a run has."""
    if not isinstance(path, str | os.PathLike):
        return False
    return (Path(path) / SPEC).exists() and not (Path(path) / CHECKPOINTS).exists()


def write_bundle(folder: PathLike, bundle: Bundle, extras: Sequence[Path] = ()) -> None:
    """Writes a bundle beside `folder` and renames it in one step.

    Args:
        folder: the directory to make; nothing may be there yet.
        bundle: what to write; of the parameters only what the policy reads.
        extras: more files to take in, such as `policy.onnx`.

    Raises:
        LoadError: `folder` exists, or a file is too large for `read_bundle`.
    """
    folder = Path(folder)
    check_absent(folder)
    for extra in extras:
        check_size(folder / extra.name, extra.stat().st_size)
    with replacing_directory(folder) as beside:
        description = describe(bundle.spec, bundle.seed, bundle.step)
        trees = (bundle.params.select(*POLICY_KEYS[bundle.spec.algorithm], strict=False), bundle.env_state)
        for (name, kind), tree in zip(TREES.items(), trees, strict=True):
            write_tree(beside / name, tree, {"kind": kind, "description_sha256": text_hash(description)})
            check_size(folder / name, (beside / name).stat().st_size)
        for extra in extras:
            shutil.copyfile(extra, beside / extra.name)
        files = {name: file_record(beside / name) for name in [*TREES, *(path.name for path in extras)]}
        (beside / SPEC).write_text(spec_text({**description, "files": files}))
        check_size(folder / SPEC, (beside / SPEC).stat().st_size)


def check_absent(folder: PathLike) -> None:
    """Refuses a directory that already exists.

    Raises:
        LoadError: naming it.
    """
    if os.path.lexists(folder):
        raise LoadError(f"{folder}: is there already; name another directory")


def read_bundle(folder: PathLike) -> Bundle:
    """Reads what `write_bundle` wrote, after checking the description and both trees against their hashes.

    Exported graphs and files that spec.json does not list are not read.

    Raises:
        LoadError: anything is missing, damaged, changed, not finite or from another bundle; one line with the file's
            name and the reason.
    """
    folder = Path(folder)
    values, spec = _read_spec(folder / SPEC)
    for name in TREES:
        check_file(folder / name, values["files"][name])
    description = {key: value for key, value in values.items() if key != "files"}
    trees = []
    for name, kind in TREES.items():
        tree, header = read_tree(folder / name)
        if header.get("kind") != kind or header.get("description_sha256") != text_hash(description):
            raise LoadError(
                f"{folder / name}: is not {kind} of the policy that {SPEC} describes; export it again"
            )
        trees.append(tree)
    check_params(str(folder / "params.safetensors"), trees[0], spec)
    check_env_state(str(folder / "env_state.safetensors"), trees[1], spec)
    return Bundle(spec, trees[0], trees[1], values["seed"], values["step"])


def describe(spec: RunSpec, seed: int, step: int) -> dict[str, Any]:
    """The content of spec.json, except "files" and its own hash; `docs/deployment.md` explains each field."""
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
        "encoder": None if spec.encoder is None else spec.encoder.name,
        "cameras": list(env.pixels.cameras) if env.pixels else [],
        "image_size": [env.pixels.height, env.pixels.width] if env.pixels else None,
        "image_quality": env.pixels.quality if env.pixels else None,
        "encoder_weights_sha256": spec.encoder.weights if isinstance(spec.encoder, R3M) else None,
        "versions": spec.versions,
        "exported_by": f"rlhive {rlhive.__version__}",
        "seed": seed,
        "step": step,
        "run": spec.to_dict(),
    }


def _read_spec(path: Path) -> tuple[dict[str, Any], RunSpec]:
    """The values of a spec.json, checked to agree with its run, and that run."""
    values = read_spec(path)
    check_names(f"{path}, files", TREES, set(values["files"]) & set(TREES))
    spec, seed, step = RunSpec.from_dict(values["run"], path), values.get("seed"), values.get("step")
    if type(seed) is not int or type(step) is not int:
        raise LoadError(f"{path}: seed and step must be whole numbers, got {seed!r} and {step!r}")
    expected = describe(spec, seed, step) | {"files": values["files"]}
    check_names(path, expected, values)
    expected["exported_by"] = values["exported_by"]
    for key, value in expected.items():
        if json.dumps(values[key]) != json.dumps(value):
            raise LoadError(f"{path}: {key!r} does not fit the run it describes; export it again")
    return values, spec
