"""What a seeded reset has to undo: RoboHive's reset leaves things of the last episode behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_CONSTANT = ("mesh_", "tex_", "skin_")  # megabytes that no environment writes


class Origin:
    """What an environment carries from one episode to the next, as it was before the first.

    That is its MuJoCo model (baoding moves its targets, which the next first observation still shows) and
    its last control (DKitty observes it). For what keeps more than that, see `keeps_hidden_state`.
    """

    def __init__(self, env: Any) -> None:
        models = {id(sim): sim.model.ptr for sim in (env.sim, env.sim_obsd)}
        arrays = [array for model in models.values() for array in _arrays(model)]
        self._model = [(array, array.copy()) for array in arrays]
        self._last_control = env.last_ctrl.copy()

    def restore(self, env: Any) -> None:
        """Take `env` back there (milliseconds)."""
        for array, value in self._model:
            array[...] = value
        env.last_ctrl = self._last_control.copy()


def keeps_hidden_state(name: str) -> bool:
    """Whether nothing but building environment `name` again makes it forget its last episode."""
    # ChaseTag's first observation has the velocity of the last opponent; muscles that tire stay tired.
    return "ChaseTag" in name or "Fati" in name


@contextlib.contextmanager
def private_global_rng(state: np.random.RandomState) -> Iterator[None]:
    """Lend `state` to numpy's global generator, which ChaseTag's terrain draws from, for a while."""
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
