"""Where the training environments are: a tree `[S]`, and functions over it.

    rollout   {"observation" [S,E,O], ("pixels" uint8 [S,E,cameras,H,W,C],) what the policies see,
               "is_init" bool [S,E,1]: whether an episode begins there,
               "explore": the exploration's state, "episodes": their count and sums so far,
               "normalizer": {"loc", "scale", "count"} float64 of what was observed, which env_state has in float32}

Checkpoints hold the keys in `SAVED`; the rest follows from them and the replay's actions.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

from rlhive.core.env_spec import SOLVED_STEPS
from rlhive.core.replay import ReplayBuffer
from rlhive.core.types import EnvState
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.exploration import Exploration
from rlhive.training.encoded_env import EncodedEnv

SEEN = ("observation", "pixels")
SAVED = ("explore", "episodes", "normalizer")


def first_rollout(envs: VectorEnv | EncodedEnv, explore: Exploration, env_state: EnvState) -> TensorDict:
    """Starts the first episodes; `env_state` `[S]` holds the normaliser."""
    parts = {
        **envs.reset().select(*SEEN, strict=False),
        "is_init": torch.ones(*envs.shape, 1, dtype=torch.bool),
        "explore": explore.init(envs.shape),
        "episodes": init_episodes(envs.shape),
        "normalizer": env_state["observation"].cpu().double(),
    }
    return TensorDict(parts, batch_size=envs.shape[:1])


def resume_rollout(envs: VectorEnv | EncodedEnv, replay: ReplayBuffer, saved: TensorDict) -> TensorDict:
    """Brings the environments back to where they were, by the replay's actions of the unfinished episodes."""
    elapsed = saved["episodes", "elapsed"]
    newest = replay.latest("action", int(elapsed.max()))
    actions = [
        [newest[len(newest) - steps :, seed, number] for number, steps in enumerate(of_seed)]
        for seed, of_seed in enumerate(elapsed.tolist())
    ]
    parts = {
        **envs.resume(saved["episodes", "number"], actions).select(*SEEN, strict=False),
        "is_init": (elapsed == 0).unsqueeze(-1),
    }
    return TensorDict(parts, batch_size=envs.shape[:1]).update(saved)


def init_episodes(shape: tuple[int, int]) -> TensorDict:
    """The tree before the first step of environments `[S, E]`.

    Returns:
        Batch `[S]`, each `[S, E]`: "number" of the current episode, counted from 0, and "elapsed", its steps so far,
        int64; "return" float64 and "solved_steps" int64 so far; "last_return" and "last_success" (0 or 1) float64 of
        the last complete episode, NaN before the first.
    """
    zero = torch.zeros(shape, dtype=torch.int64)
    values = {
        "number": zero,
        "elapsed": zero.clone(),
        "return": zero.double(),
        "solved_steps": zero.clone(),
        "last_return": zero.double().fill_(torch.nan),
        "last_success": zero.double().fill_(torch.nan),
    }
    return TensorDict(values, batch_size=shape[:1])


def count_step(episodes: TensorDict, following: TensorDict) -> TensorDict:
    """The tree after one step of all environments, whose "reward", "solved" and "done" `[S, E, 1]` are given."""
    done = following["done"].squeeze(-1)
    total = episodes["return"] + following["reward"].squeeze(-1)
    solved_steps = episodes["solved_steps"] + following["solved"].squeeze(-1)
    values = {
        "number": episodes["number"] + done,
        "elapsed": (episodes["elapsed"] + 1).masked_fill(done, 0),
        "return": total.masked_fill(done, 0.0),
        "solved_steps": solved_steps.masked_fill(done, 0),
        "last_return": torch.where(done, total, episodes["last_return"]),
        "last_success": torch.where(done, (solved_steps > SOLVED_STEPS).double(), episodes["last_success"]),
    }
    return TensorDict(values, batch_size=episodes.batch_size)


def episode_summary(episodes: TensorDict) -> dict[str, float]:
    """Means over one seed's environments `[E]` of their last episodes; empty until each of them has finished one."""
    if episodes["last_return"].isnan().any():
        return {}
    return {
        "train/return": episodes["last_return"].mean().item(),
        "train/success": episodes["last_success"].mean().item(),
    }


def latest_episodes(episodes: TensorDict) -> tuple[list[float], float]:
    """For the progress bar: the return of each seed that has one, and the success rate over all seeds."""
    returns = episodes["last_return"].nanmean(-1)
    return returns[~returns.isnan()].tolist(), episodes["last_success"].nanmean().item()
