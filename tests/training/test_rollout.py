"""Episodes are counted and summed up, by hand."""

import torch
from tensordict import TensorDict

from rlhive.training.rollout import count_step, episode_summary, init_episodes, latest_episodes


def step(reward, solved, done) -> TensorDict:
    """One step of environments `[S, E]` from nested lists."""
    values = {"reward": torch.tensor(reward), "solved": torch.tensor(solved), "done": torch.tensor(done)}
    return TensorDict(
        {name: value.unsqueeze(-1) for name, value in values.items()}, torch.tensor(reward).shape
    )


def test_episodes_are_counted_by_hand():
    episodes = init_episodes((2, 1))
    for _ in range(5):
        episodes = count_step(episodes, step([[1.0], [2.0]], [[True], [True]], [[False], [False]])).lock_()
    assert episode_summary(episodes[0]) == {}
    assert episodes["elapsed"].tolist() == [[5], [5]]
    episodes = count_step(episodes, step([[1.0], [2.0]], [[True], [False]], [[True], [True]]))
    # Six solved steps are a success, five are not.
    assert episode_summary(episodes[0]) == {"train/return": 6.0, "train/success": 1.0}
    assert episode_summary(episodes[1]) == {"train/return": 12.0, "train/success": 0.0}
    assert latest_episodes(episodes) == ([6.0, 12.0], 0.5)
    episodes = count_step(episodes, step([[-3.0], [7.0]], [[False], [False]], [[True], [False]]))
    assert episode_summary(episodes[0]) == {"train/return": -3.0, "train/success": 0.0}
    assert episode_summary(episodes[1]) == {"train/return": 12.0, "train/success": 0.0}
    assert episodes["number"].tolist() == [[2], [1]] and episodes["elapsed"].tolist() == [[0], [1]]


def test_a_seed_is_summed_up_once_all_its_environments_ended_an_episode():
    episodes = count_step(init_episodes((1, 2)), step([[1.0, 5.0]], [[False, False]], [[True, False]]))
    assert episode_summary(episodes[0]) == {}
    assert latest_episodes(episodes) == ([1.0], 0.0)
    episodes = count_step(episodes, step([[2.0, 5.0]], [[False, False]], [[False, True]]))
    assert episode_summary(episodes[0]) == {"train/return": 5.5, "train/success": 0.0}
