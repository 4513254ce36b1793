"""Checks of settings, with one-line errors that say what was expected. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from numbers import Real
from typing import Any


def check_range(name: str, value: Any, fits: Callable[[Any], bool], expected: str) -> None:
    """Refuses a number out of its range; tensors are not checked, so that `torch.func.vmap` works over them.

    Raises:
        ValueError: naming the setting.
    """
    if not (fits(value) if isinstance(value, Real) else hasattr(value, "dtype")):
        raise ValueError(f"{name} must {expected}, got {value!r}")


def one_of(choices: Collection[str]) -> Callable[[Any, Any, Any], None]:
    """A validator for attrs fields that must be one of some names; names added later count too."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{attribute.name!r} must be in {tuple(choices)} (got {value!r})")

    return check
