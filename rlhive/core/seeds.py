"""Many seeds in one process: per-seed functions over trees with a leading `[S]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.func import vmap


def vmap_seeds(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Lifts a function of one seed's trees to trees with a leading `[S]`, seed by seed independent.

    Args:
        fn: takes TensorDicts or tensors of one seed and returns one, or a tuple of them.

    Returns:
        The same function where every argument and result has a leading `[S]`. With one seed it calls `fn` itself:
        on a CPU the eager 256x256 SAC step then takes about two thirds of the time it takes under `vmap`.
    """
    vmapped = vmap(fn)

    def lifted(*trees: Any) -> Any:
        if trees[0].shape[0] > 1:
            return vmapped(*trees)
        result = fn(*(tree[0] for tree in trees))
        if isinstance(result, tuple):
            return tuple(item.unsqueeze(0) for item in result)
        return result.unsqueeze(0)

    return lifted
