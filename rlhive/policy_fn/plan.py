"""Carries out plans: a policy may choose several actions at once, and observes again when all are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Array = TypeVar("Array")  # a tensor or an array


def follow(rest: Array | None, make_plan: Callable[[], Array]) -> tuple[Array, Array | None]:
    """The next action of a plan and the rest of the plan, which the caller keeps until the next step.

    Args:
        rest: the rest of the last plan, `[..., k, A]`; None to make a new plan, as at the start of an episode.
        make_plan: `make_plan() -> [..., K, A]`, a policy's next K actions.

    Returns:
        The action `[..., A]`, and `[..., k - 1, A]`, None when nothing is left.
    """
    plan = make_plan() if rest is None else rest
    left = plan[..., 1:, :] if plan.shape[-2] > 1 else None  # type: ignore[attr-defined, index]
    return plan[..., 0, :], left  # type: ignore[index]
