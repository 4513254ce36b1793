"""Which settings a replay cannot have. Free of torch."""

from __future__ import annotations

from numbers import Integral


def check_replay_settings(
    capacity: int,
    num_seeds: int,
    num_envs: int,
    total_steps: int | None,
    n_step: int,
    gamma: float | None,
    alpha: float,
    beta: float,
) -> None:
    """Refuses settings that make no sense. The arguments are those of `ReplayBuffer`.

    Raises:
        ValueError: naming them.
    """
    counts = {"capacity": capacity, "num_seeds": num_seeds, "num_envs": num_envs, "n_step": n_step}
    if total_steps is not None:
        counts["total_steps"] = total_steps
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise ValueError(f"{name} must be a whole number, got {count!r}")
    if num_seeds < 1 or num_envs < 1 or capacity < num_envs:
        raise ValueError(
            "num_seeds and num_envs must be at least 1 and capacity at least num_envs, "
            f"got num_seeds={num_seeds}, num_envs={num_envs}, capacity={capacity}"
        )
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if n_step < 1:
        raise ValueError(f"n_step must be at least 1, got n_step={n_step}")
    if n_step > 1 and gamma is None:
        raise ValueError(f"n_step > 1 needs the loss's gamma, got n_step={n_step}, gamma={gamma}")
    if gamma is not None and not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    if not 0 <= alpha <= 1 or not 0 <= beta <= 1:
        raise ValueError(f"alpha and beta must be in [0, 1], got alpha={alpha}, beta={beta}")
