"""Undoes what RoboHive's reset leaves behind of the last episode, so that a seed alone determines the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_CONSTANT = ("mesh_", "tex_", "skin_")  # megabytes that no environment changes


class Origin:
    """What an environment carries from one episode to the next, as it was before the first.

    That is its MuJoCo model (baoding moves its targets, and the next first observation still shows that) and its last
    control (DKitty observes it). `keeps_hidden_state` says which environments carry more.
    """

    def __init__(self, env: Any) -> None:
        models = {id(sim): sim.model.ptr for sim in (env.sim, env.sim_obsd)}
        arrays = [array for model in models.values() for array in _arrays(model)]
        self._model = [(array, array.copy()) for array in arrays]
        self._last_control = env.last_ctrl.copy()

    def restore(self, env: Any) -> None:
        """Take `env` back to that state (milliseconds)."""
        for array, value in self._model:
            array[...] = value
        env.last_ctrl = self._last_control.copy()


def keeps_hidden_state(name: str) -> bool:
    """Whether environment `name` forgets its last episode only if it is built again."""
    # ChaseTag's first observation holds the last opponent's velocity; tired muscles stay tired.
    return "ChaseTag" in name or "Fati" in name


@contextlib.contextmanager
def private_global_rng(state: np.random.RandomState) -> Iterator[None]:
    """Let numpy's global generator, from which ChaseTag draws its terrain, continue from `state` inside the block."""
    outside = np.random.get_state()
    np.random.set_state(state.get_state())
    try:
        yield
    finally:
        state.set_state(np.random.get_state())
        np.random.set_state(outside)


def _arrays(model: Any) -> Iterator[np.ndarray]:
    for name in dir(model):
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and value.size and not name.startswith(_CONSTANT):
            yield value
