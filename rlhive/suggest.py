"""Suggests names in error messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the known names that look most like `name`, ignoring case, best first."""
    lowered = {candidate.lower(): candidate for candidate in known}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]


def suggest(name: str, known: Sequence[str]) -> str:
    """ "did you mean A or B?" with the names most like `name`, or all known names if none is similar."""
    if close := nearest(name, known):
        return f"did you mean {' or '.join(close)}?"
    return f"known are {', '.join(known)}"
