"""Builds RoboHive's environments and describes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.fast_step import speed_up
from rlhive.envs.importing import building, import_robohive, quiet
from rlhive.envs.names import built_name
from rlhive.envs.pixels import own_pixels

# Random draws while building are the same everywhere; a seed given later decides everything else.
_BUILD_SEED = 0


def build(name: str) -> tuple[Any, int | None]:
    """The bare RoboHive environment with its slow methods replaced, and its registered time limit."""
    from rlhive.envs import simhive

    simhive.ensure()
    with quiet():
        env, max_episode_steps = make_bare(name, seed=_BUILD_SEED)
        speed_up(env)
        return env, max_episode_steps


def make_bare(name: str, **settings: Any) -> tuple[Any, int | None]:
    """The bare RoboHive environment, without gymnasium's wrappers and without images, and its registered time limit.

    Args:
        name: id of RoboHive's suites.
        **settings: arguments of the environment's class, in addition to the registered ones.
    """
    import gymnasium

    import_robohive()
    spec = gymnasium.spec(built_name(name))
    # Without visual keys RoboHive loads neither torch nor an encoder; `View` draws the images.
    blind = {"visual_keys": None} if "visual_keys" in spec.kwargs else {}
    with building(spec.entry_point):
        made = gymnasium.make(spec.id, disable_env_checker=True, **settings, **blind)
    env: Any = made.unwrapped
    if own_pixels(name) is not None:
        env.proprio_keys = _proprio_keys(env)
    return env, spec.max_episode_steps


def observation_keys(name: str, env: Any) -> list[str]:
    """The observation keys of a bare `env`, built from `name`: proprioception if the id has images of its own."""
    keys = None if own_pixels(name) is None else _proprio_keys(env)
    return list(keys or env.obs_keys)


def _proprio_keys(env: Any) -> list[str] | None:
    """The proprioceptive keys; the class's default ones if it forgets to pass them on, as FrankaPickPlace does."""
    return getattr(env, "DEFAULT_PROPRIO_KEYS", None) if env.proprio_keys is None else env.proprio_keys


def action_names(env: Any) -> list[str]:
    """The names of the actuators, in the order of the action."""
    import mujoco

    model, actuator = env.sim.model.ptr, mujoco.mjtObj.mjOBJ_ACTUATOR
    return [mujoco.mj_id2name(model, actuator, i) or f"actuator{i}" for i in range(model.nu)]


def make_spec(name: str, env: Any, max_episode_steps: int | None, pixels: PixelSpec | None) -> EnvSpec:
    """The spec of the bare `env`, built from `name`, with these images."""
    keys = observation_keys(name, env)
    sizes = [np.size(env.obs_dict[key]) for key in keys]
    stops = np.cumsum(sizes)
    return EnvSpec(
        name=name,
        observation_keys=keys,
        observation_slices=list(zip(stops - sizes, stops, strict=True)),
        observation_dim=int(stops[-1]),
        action_dim=env.action_space.shape[0],
        action_low=env.action_space.low,
        action_high=env.action_space.high,
        action_names=action_names(env),
        dt=float(env.dt),
        max_episode_steps=max_episode_steps,
        pixels=pixels,
    )
