"""The flag --import of commands that load a policy: modules that enter algorithms or encoders of the user's own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable

from absl import flags


def define_import_flag() -> None:
    """Defines the flag."""
    flags.DEFINE_multi_string(
        "import",
        [],
        "A module to import first, which enters an algorithm or encoder of your own; repeatable.",
    )


def import_own_modules(names: Iterable[str] | None) -> None:
    """Imports the modules that the flag names.

    Raises:
        ValueError: one of them cannot be imported.
    """
    for name in names or ():
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"--import={name}: cannot be imported: {type(error).__name__}: {error}"
            ) from None


def import_flags(config: str) -> str:
    """The flags that import the user's own modules that a config.gin imports, each with a space before it."""
    modules = re.findall(r"^import ([\w.]+)", config, flags=re.MULTILINE)
    modules += [
        ".".join(names) for names in re.findall(r"^from ([\w.]+) import (\w+)", config, flags=re.MULTILINE)
    ]
    own = [name for name in modules if name.split(".")[0] not in ("__gin__", "rlhive")]
    return "".join(f" --import={name}" for name in own)
