"""The end of an error message about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(name: str, known: Sequence[str]) -> str:
    """ "did you mean A or B?" with the names most like `name`, or all the known ones where none is."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(lowered[match] for match in close)}?"
    return f"known are {', '.join(known)}"
