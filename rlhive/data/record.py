"""Records episodes of a real environment as RoboHive's Trace."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from tqdm import tqdm

from rlhive import load_torch
from rlhive.core.files import check_new
from rlhive.core.interrupt import hold_signals
from rlhive.core.pixel_spec import camera_key
from rlhive.data.trace import trace_file, write_trial

if TYPE_CHECKING:
    from rlhive.core.env_spec import EnvSpec
    from rlhive.core.pixel_spec import PixelSpec
    from rlhive.envs.robohive import RoboHive
    from rlhive.policy_fn.policy import Policy

LOG = logging.getLogger(__name__)
Act = Callable[[dict[str, np.ndarray], np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]
_TAG = 0x64617461  # "data": a spawn key that training and evaluation do not use


def record(
    env_name: str,
    policy: str,
    episodes: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    stochastic: bool = False,
    pixels: PixelSpec | None = None,
) -> None:
    """Plays episodes and writes them as a Trace, with the full state at every step and the seed of every episode.

    If it is interrupted, it writes the episodes that are complete to `out` before it raises `KeyboardInterrupt` again.

    Args:
        env_name: environment id of RoboHive.
        policy: "zero", "random", or a directory that `rlhive.policy_fn.load` takes.
        episodes: number of episodes.
        out: the new h5 file.
        seed: of the episodes, which differ from those of training and evaluation, and of random and sampled actions.
        stochastic: sample actions from the policy instead of taking its mode.
        pixels: the images to record; None for those that the policy sees, or else those of the environment. For a
            policy that sees, no other images are possible.

    Raises:
        ValueError: `out` is not a valid place, `episodes` is below 1, the environment or policy does not exist, the
            policy was trained on another environment, sees other images or cannot be sampled from, or the environment
            has no time limit.
        RuntimeError: the environment fails.
    """
    check_new(out)
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if stochastic and policy in ("zero", "random"):
        raise ValueError(f"only a trained policy can be sampled from, not {policy!r}: leave out stochastic")
    load_torch()  # before anything that loads mujoco
    from rlhive.envs.robohive import RoboHive

    trained = _load_policy(policy)
    if trained is not None:
        pixels = _images_with(trained.spec.env, env_name, pixels)
    env = RoboHive(env_name, pixels=pixels)
    try:
        act = _make_act(trained or policy, env.spec, seed, stochastic)
        if env.spec.max_episode_steps is None:
            raise ValueError(
                f"{env_name} has no time limit: its episodes may never end, so they cannot be recorded"
            )
        seeds = np.random.SeedSequence(seed, spawn_key=(_TAG,)).generate_state(episodes, np.uint64)
        _write_episodes(env, act, env.spec.max_episode_steps, seeds, out)
    finally:
        env.close()


def _write_episodes(
    env: RoboHive, act: Act, limit: int, seeds: np.ndarray, out: str | os.PathLike[str]
) -> None:
    """Plays and writes an episode per seed; if interrupted, keeps those that are complete."""
    interrupted, written = None, 0
    with contextlib.ExitStack() as stack:
        with trace_file(out, env.spec.name, single_frames(env.spec.pixels)) as file:
            try:
                for seed in tqdm(
                    map(int, seeds), desc="recording", total=len(seeds), unit="episode", disable=None
                ):
                    values = play(env, env.reset(seed), act, limit)
                    with hold_signals():  # writes complete trials only
                        write_trial(file, f"Trial{written}", values, seed)
                        written += 1
            except KeyboardInterrupt as error:
                if not written:
                    raise
                interrupted = error
            finally:
                stack.enter_context(hold_signals())  # until the file is in its place
        if interrupted is not None:
            LOG.warning("stopped: %s has %d of %d episodes", out, written, len(seeds))
            raise interrupted


def play(env: RoboHive, first: np.ndarray, act: Act, limit: int) -> dict[str, np.ndarray]:
    """Plays one episode from the current state, exactly as without recording, and logs it as RoboHive's recorder does.

    Args:
        env: a `RoboHive`.
        first: its current observation, f32 `[O]`.
        act: `act({"observation" [O], images}, rest) -> (action [A], rest)`; `rest` is what it returned at the
            previous step, such as the rest of a plan; None at the first step.
        limit: maximum number of steps.

    Returns:
        The trial as `write_trial` takes it, 2 to `limit` + 1 rows: if an episode starts done, one step is still played.
    """
    from rlhive.envs.importing import quiet

    with quiet():
        from robohive.logger.grouped_datasets import Trace

        trace = Trace("record")
        trace.create_group("Trial")
    # Before the reward, as a policy sees them: some environments colour the scene by it.
    images = env.images()
    reward, done = _first_reward(env.env)
    observation, row, rest = first, 0, None
    while True:
        last = (row > 0 and done) or row == limit
        if last:
            action = np.full(env.spec.action_dim, np.nan)
        else:
            action, rest = act({"observation": observation, **images}, rest)
        trace.append_datums(
            "Trial",
            {
                "time": np.float64(env.env.time),
                "observations": observation,
                "actions": np.asarray(action, np.float32),
                "rewards": np.float64(reward),
                "done": bool(done),
                "env_infos": _infos(env, images),
            },
        )
        if last:
            break
        step = env.step(np.asarray(action, np.float32))
        observation, reward, done, row = step.observation, step.reward, step.terminated, row + 1
        images = env.images()
    trace.close(u_res=None, i_res=None, f_res=None, verify_length=True)
    values: dict[str, np.ndarray] = trace.trace["Trial"]
    return values


def _first_reward(bare: Any) -> tuple[float, bool]:
    """The reward of the first state, and whether it is done, computed from the observation that `reset` made.

    RoboHive's `forward` would make a new observation, for which some environments draw random numbers.
    """
    bare.expand_dims(bare.obs_dict)
    bare.rwd_dict = bare.get_reward_dict(bare.obs_dict)
    for values in (bare.rwd_dict, bare.obs_dict):
        bare.squeeze_dims(values)
    return float(bare.rwd_dict[bare.rwd_mode]), bool(bare.rwd_dict["done"])


def _infos(env: RoboHive, images: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A copy of RoboHive's complete `info` of the current state, which the next step overwrites."""
    infos: dict[str, Any] = copy.deepcopy(type(env.env).get_env_infos(env.env))
    pixels = env.spec.pixels
    if pixels is not None:
        infos["visual_dict"] = {"time": np.array([env.env.time])}
        for index, name in enumerate(pixels.cameras):
            colour = camera_key(name, pixels)
            infos["visual_dict"][colour] = images["pixels"][index, ..., -3:]  # the newest of stacked frames
            if "depth" in images:
                infos["visual_dict"]["d" + colour.removeprefix("rgb")] = images["depth"][index]
    return infos


def single_frames(pixels: PixelSpec | None) -> PixelSpec | None:
    """These images as a Trace holds them: one per row, however many a policy sees at a time."""
    return None if pixels is None else attrs.evolve(pixels, frames=1)


def _load_policy(policy: str) -> Policy | None:
    """The trained policy in that directory; None for "zero" and "random"."""
    if policy in ("zero", "random"):
        return None
    from rlhive.policy_fn import load

    return load(policy)


def _images_with(trained_on: EnvSpec, env_name: str, pixels: PixelSpec | None) -> PixelSpec | None:
    """The images to record with a policy: those that it sees, or if it sees none, the requested ones.

    Raises:
        ValueError: it was trained on another environment, or sees other images than the requested ones.
    """
    if env_name != trained_on.name:
        raise ValueError(f"the environment is {env_name}, but the policy was trained on {trained_on.name}")
    if trained_on.pixels is None:
        return pixels
    if pixels is not None and single_frames(pixels) != single_frames(trained_on.pixels):
        raise ValueError(
            f"the policy sees {trained_on.pixels}, so only those can be recorded; requested are {pixels}"
        )
    return trained_on.pixels


def _make_act(policy: Policy | str, spec: EnvSpec, seed: int, stochastic: bool) -> Act:
    """The trained policy, or "zero" or "random", as a function.

    Raises:
        ValueError: it was trained on another environment.
    """
    rng = np.random.default_rng(seed)
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    if policy == "zero":
        return lambda seen, rest: (np.clip(0.0, low, high), None)
    if isinstance(policy, str):
        return lambda seen, rest: (rng.uniform(low, high), None)
    from rlhive.policy_fn.compare import check_same_environment

    trained_on = policy.spec.env
    sees = trained_on.pixels is not None
    check_same_environment(spec if sees else attrs.evolve(spec, pixels=None), trained_on)
    shape = (policy.spec.network.chunk_size, spec.action_dim)

    def act(seen: dict[str, np.ndarray], rest: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        noise = rng.standard_normal(shape).astype(np.float32) if stochastic and rest is None else None
        return policy.act(seen if sees else {"observation": seen["observation"]}, rest, noise)

    return act
