"""Checks of settings by one line that says what was expected. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from numbers import Real
from typing import Any


def check_range(name: str, value: Any, fits: Callable[[Any], bool], expected: str) -> None:
    """Refuses a number out of its range; a tensor's is not looked at, as `torch.func.vmap` over it needs.

    Raises:
        ValueError: naming the setting.
    """
    if not (fits(value) if isinstance(value, Real) else hasattr(value, "dtype")):
        raise ValueError(f"{name} must {expected}, got {value!r}")


def one_of(choices: Collection[str]) -> Callable[[Any, Any, Any], None]:
    """The validator of attrs fields that are one of some names, which may still grow."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{attribute.name!r} must be in {tuple(choices)} (got {value!r})")

    return check
