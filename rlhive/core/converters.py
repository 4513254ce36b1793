"""Converters of attrs fields to tuples, with the types that `tuple` itself does not tell. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable


def strings(values: Iterable[str]) -> tuple[str, ...]:
    """A tuple of them.

    Raises:
        ValueError: they are one text, of which the tuple would be its letters.
    """
    if isinstance(values, str):
        raise ValueError(f"expected several names, as in ({values!r},), got the text {values!r}")
    return tuple(values)


def integers(values: Iterable[int]) -> tuple[int, ...]:
    """A tuple of them, for a validator to look at: what is no integer stays what it is."""
    return tuple(values)


def floats(values: Iterable[float]) -> tuple[float, ...]:
    """A tuple of them, each made a float."""
    return tuple(float(value) for value in values)
