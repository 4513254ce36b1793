"""Builds RoboHive's environments, and says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.importing import building, import_robohive, quiet
from rlhive.envs.lean import lighten
from rlhive.envs.names import built_name
from rlhive.envs.pixels import own_pixels

_BUILD_SEED = (
    0  # what is drawn while building is the same everywhere: a seed given later decides all the rest
)


def build(name: str) -> tuple[Any, int | None]:
    """The bare RoboHive environment, without gymnasium's wrappers, and its registered time limit."""
    from rlhive.envs import simhive

    simhive.ensure()
    with quiet():
        import gymnasium

        import_robohive()
        spec = gymnasium.spec(built_name(name))
        # Without visual keys RoboHive does not load torch, nor an encoder: the images are drawn by `View`.
        blind = {"visual_keys": None} if "visual_keys" in spec.kwargs else {}
        with building(spec.entry_point):
            made = gymnasium.make(spec.id, seed=_BUILD_SEED, disable_env_checker=True, **blind)
        env: Any = made.unwrapped
        if own_pixels(name) is not None and env.proprio_keys is None:
            env.proprio_keys = getattr(
                env, "DEFAULT_PROPRIO_KEYS", None
            )  # FrankaPickPlace forgets to pass them
        lighten(env)
        return env, spec.max_episode_steps


def make_spec(name: str, env: Any, max_episode_steps: int | None, pixels: PixelSpec | None) -> EnvSpec:
    """The spec of the bare `env`, built of `name`, with these images."""
    import mujoco

    model = env.sim.model.ptr
    keys = env.obs_keys if own_pixels(name) is None else env.proprio_keys or env.obs_keys
    sizes = [np.size(env.obs_dict[key]) for key in keys]
    stops = np.cumsum(sizes)
    actuator = mujoco.mjtObj.mjOBJ_ACTUATOR
    labels: Any = [mujoco.mj_id2name(model, actuator, i) or f"actuator{i}" for i in range(model.nu)]
    return EnvSpec(
        name=name,
        observation_keys=keys,
        observation_slices=list(zip(stops - sizes, stops, strict=True)),
        observation_dim=int(stops[-1]),
        action_dim=env.action_space.shape[0],
        action_low=env.action_space.low,
        action_high=env.action_space.high,
        action_names=labels,
        dt=float(env.dt),
        max_episode_steps=max_episode_steps,
        pixels=pixels,
    )
