"""The files of a bundle, their sizes and hashes. Free of torch, since the ONNX policy uses it too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive.core.errors import LoadError
from rlhive.core.files import file_sha256
from rlhive.runs.run_files import CHECKPOINTS, SPEC_FILE

BUNDLE_VERSION = 1
SPEC, ONNX = SPEC_FILE, "policy.onnx"
NO_CHECKPOINT = "is a run without a checkpoint yet; train until it has one"
MAX_SPEC_BYTES, MAX_FILE_BYTES = 1 << 20, 1 << 31


def spec_text(values: Mapping[str, Any]) -> str:
    """The text of spec.json: `describe`'s values and the hash of their text."""
    return json.dumps({**values, "sha256": text_hash(values)}, indent=2) + "\n"


def text_hash(values: Mapping[str, Any]) -> str:
    """sha256 in hex of the values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def read_spec(path: Path) -> dict[str, Any]:
    """The values of a spec.json without its own hash, which is checked; "run" and "files" are dicts.

    Raises:
        LoadError: it is missing, damaged, changed, or has another version.
    """
    _check_there(path)
    check_size(path, path.stat().st_size)
    try:
        text = path.read_bytes().decode()
        values = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path}: is not a bundle's description: {error}") from None
    if isinstance(values, dict) and "run_id" in values:
        has_one = (path.parent / CHECKPOINTS).exists()
        raise LoadError(f"{path.parent}: {'is a run, not a bundle; export it' if has_one else NO_CHECKPOINT}")
    version = values.get("bundle_version") if isinstance(values, dict) else None
    if type(version) is not int or version != BUNDLE_VERSION:
        raise LoadError(
            f"{path}: unknown bundle version {version!r}, this version of rlhive reads {BUNDLE_VERSION}"
        )
    values.pop("sha256", None)
    if spec_text(values) != text:
        raise LoadError(f"{path}: was changed or damaged (its sha256 does not fit); copy or export it again")
    if not isinstance(values.get("run"), dict) or not isinstance(values.get("files"), dict):
        raise LoadError(f"{path}: has no run or no files; export it again")
    return values


def file_record(path: Path) -> dict[str, Any]:
    """The entry of a file in spec.json: its size and hash."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def check_file(path: Path, record: Any) -> None:
    """Refuses a file that is not byte for byte the one that was exported.

    Raises:
        LoadError: naming it.
    """
    if not isinstance(record, dict) or set(record) != {"bytes", "sha256"}:
        raise LoadError(f"{path}: {SPEC} does not say its size and hash; export it again")
    _check_there(path)
    size = path.stat().st_size
    check_size(path, size)
    if size != record["bytes"]:
        raise LoadError(
            f"{path}: has {size} bytes instead of {record['bytes']}: damaged, or of another bundle"
        )
    if file_record(path) != record:
        raise LoadError(
            f"{path}: its content is not what was exported (sha256 differs): damaged, or of another bundle"
        )


def check_size(path: Path, size: int) -> None:
    """Refuses a file that is too large for a bundle, whether it is read or written.

    Args:
        path: where it is in the bundle.
        size: in bytes.

    Raises:
        LoadError: naming it.
    """
    most = MAX_SPEC_BYTES if path.name == SPEC else MAX_FILE_BYTES
    if size > most:
        raise LoadError(f"{path}: has {size} bytes, more than the {most} that such a file may have")


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
