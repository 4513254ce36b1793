"""The header of a file of a tree, the text beside its tensors; read without the tensors and without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from rlhive.core.errors import LoadError

FORMAT_VERSION = 1
# An older checkpoint cannot be resumed, since only the newest one has the replay.
REMEDY = "copy it again; to evaluate and export, an older checkpoint will do, too"
_JSON_START = b"{"  # byte 8 of every safetensors file, after the length of the header


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The header of a file whose size shows that it is whole; its tensors are not read.

    Raises:
        LoadError: no such file, a pickle or another format, a file cut short, or an unknown format version.
    """
    from safetensors import SafetensorError, safe_open  # here, since an ONNX policy does not need it

    check_is_safetensors(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from None
    check_version(path, header.get("format_version"), FORMAT_VERSION)
    return header


def damaged(path: object, error: Exception) -> LoadError:
    """The error for a checkpoint file that safetensors cannot read."""
    return LoadError(f"{path}: damaged or cut short ({error}); {REMEDY}")


def check_version(where: object, version: object, known: int) -> None:
    """Refuses a file of a format that this code does not know.

    Raises:
        LoadError: if the version is missing or another one.
    """
    if str(version) != str(known):
        raise LoadError(f"{where}: unknown format version {version!r}, this version of rlhive reads {known}")


def check_kind(path: object, header: Mapping[str, str], kind: str) -> None:
    """Refuses a file of another kind, such as a bundle's where a checkpoint's is expected.

    Raises:
        LoadError: its header names another kind, or none.
    """
    if header.get("kind") != kind:
        raise LoadError(f"{path}: holds {header.get('kind')!r}, but a file of {kind!r} is expected")


def header_json(path: object, header: Mapping[str, str], field: str) -> list | dict:
    """The list or dict that a field of the header holds as JSON.

    Raises:
        LoadError: the field is missing or is neither.
    """
    try:
        value = json.loads(header[field])
    except (KeyError, ValueError, RecursionError):
        value = None
    if not isinstance(value, list | dict):
        raise LoadError(
            f"{path}: its header has no valid {field!r}; it is not a file of RLHive's checkpoints"
        )
    return value


def check_is_safetensors(path: str | os.PathLike[str]) -> None:
    """Checks the first bytes only, so that a pickle never reaches a parser that would run it.

    Raises:
        LoadError: the file cannot be read, or is not a safetensors file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None
    if start[8:] == _JSON_START:
        return
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05"):
        raise LoadError(f"{path}: is a pickle or an archive of torch.save, which may run code; not loaded")
    raise LoadError(f"{path}: is not a safetensors file (empty, cut short, or another format)")
