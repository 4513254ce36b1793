"""Evaluation: whole episodes from given seeds; an episode solved on more than 5 steps is a success.

This is RoboHive's default; its special measures for Myo's Baoding and ChaseTag are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.env_spec import SOLVED_STEPS
from rlhive.core.tree import replace
from rlhive.envs.vector import VectorEnv
from rlhive.training.encoded_env import EncodedEnv

Act: TypeAlias = Callable[[TensorDict, Tensor | None], tuple[Tensor, Tensor | None]]
_TAG = 0x6576616C  # "eval": no stream of training has a spawn key


class Episodes(NamedTuple):
    """The outcome of `n` episodes of each seed's policy; rewards as the environment gives them, unscaled.

    Attributes:
        returns: sums of rewards, float64 `[S, n]`.
        lengths: steps, int64 `[S, n]`.
        solved_steps: steps on which the task was solved, int64 `[S, n]`.
        success: whether those were more than 5, bool `[S, n]`.
    """

    returns: np.ndarray
    lengths: np.ndarray
    solved_steps: np.ndarray
    success: np.ndarray


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of evaluation episodes: the same for every trained seed, and never those of training environments.

    Args:
        seed: the evaluation's own seed, >= 0.
        episodes: how many; a smaller number gives the first of the same episodes.

    Raises:
        ValueError: if a number is out of its range.
    """
    if seed < 0 or episodes < 1:
        raise ValueError(
            f"evaluation needs a seed >= 0 and at least 1 episode, got seed={seed}, episodes={episodes}"
        )
    return np.random.SeedSequence(seed, spawn_key=(_TAG,)).generate_state(episodes, np.uint64).tolist()


def run_episodes(envs: VectorEnv | EncodedEnv, act: Act, episode_seeds: Sequence[int]) -> Episodes:
    """Plays one episode from each of `n` episode seeds with each seed's policy, in rounds of E at a time.

    Args:
        envs: the environments `[S, E]`; their random streams change.
        act: `act(seen, rest) -> (action [S, E, A] float32, rest)`; `seen` `[S, E]` is what `VectorEnv.reset` gives, and
            `rest` is what it returned at the previous step, such as the rest of a plan; None where episodes begin.
        episode_seeds: `n` seeds, the same for every one of the S.

    Raises:
        ValueError: the environment has no time limit: an episode might never end.
    """
    if envs.spec.max_episode_steps is None:
        raise ValueError(
            f"{envs.spec.name} has no time limit: its episodes may never end, so cannot be counted"
        )
    num_envs = envs.shape[1]
    rounds = [episode_seeds[start : start + num_envs] for start in range(0, len(episode_seeds), num_envs)]
    played = [_play(envs, act, seeds) for seeds in rounds]
    returns, lengths, solved_steps = (np.concatenate(parts, axis=1) for parts in zip(*played, strict=True))
    return Episodes(returns, lengths, solved_steps, solved_steps > SOLVED_STEPS)


def _play(
    envs: VectorEnv | EncodedEnv, act: Act, seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One round: returns, lengths and solved steps `[S, len(seeds)]`."""
    num_seeds, num_envs = envs.shape
    padded = list(seeds) + [seeds[0]] * (num_envs - len(seeds))
    seen, rest = envs.reset([padded] * num_seeds), None
    returns = torch.zeros(envs.shape, dtype=torch.float64)
    lengths, solved_steps = torch.zeros(2, *envs.shape, dtype=torch.int64)
    running = torch.ones(envs.shape, dtype=torch.bool)
    while running.any():
        # A finished environment shows an episode that does not count, and may even show NaN.
        counted = seen["observation"].where(running.unsqueeze(-1), 0.0)
        action, rest = act(replace(seen, {"observation": counted}), rest)
        envs.send(action)
        step = envs.recv()
        seen, following = step.exclude("next"), step["next"]
        # A finished environment continues with an episode that does not count.
        returns += torch.where(running, following["reward"].squeeze(-1), 0.0)
        solved_steps += following["solved"].squeeze(-1) & running
        lengths += running
        running &= ~following["done"].squeeze(-1)
    return tuple(total[:, : len(seeds)].numpy() for total in (returns, lengths, solved_steps))  # type: ignore[return-value]
