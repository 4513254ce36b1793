"""Converters of attrs fields to tuples, typed so that mypy knows their elements. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable


def strings(values: Iterable[str]) -> tuple[str, ...]:
    """A tuple of the strings.

    Raises:
        ValueError: a single string, which `tuple` would split into letters.
    """
    if isinstance(values, str):
        raise ValueError(f"expected several names, as in ({values!r},), got the text {values!r}")
    return tuple(values)


def integers(values: Iterable[int]) -> tuple[int, ...]:
    """A tuple of the values as they are; a validator checks that they are integers."""
    return tuple(values)


def floats(values: Iterable[float]) -> tuple[float, ...]:
    """A tuple of the values as floats."""
    return tuple(float(value) for value in values)
