import attrs
import numpy as np
import pytest
import torch

from rlhive.envs.vector import VectorEnv
from rlhive.training.evaluation import evaluation_seeds, run_episodes
from tests.envs.toy import ConstantReward, MatchSign, ReachPoint


def towards_target(seen, rest=None):
    observation = seen["observation"]
    return (4.0 * (observation[..., 1:] - observation[..., :1])).clamp(-1.0, 1.0), None


def test_evaluation_seeds_are_fixed_distinct_and_prefixes():
    seeds = evaluation_seeds(0, 50)
    assert seeds == evaluation_seeds(0, 50)
    assert seeds[:20] == evaluation_seeds(0, 20)
    assert len(set(seeds) | set(evaluation_seeds(1, 50))) == 100


def test_evaluation_seeds_are_not_those_of_training():
    training = {
        int(np.random.SeedSequence((seed, env)).generate_state(1, np.uint64)[0])
        for seed in range(50)
        for env in range(50)
    }
    assert not training & {seed for number in range(50) for seed in evaluation_seeds(number, 50)}
    assert min(evaluation_seeds(0, 1000)) > 2**32  # nor a seed that somebody would type


@pytest.mark.parametrize("arguments", [(-1, 5), (0, 0)])
def test_evaluation_seeds_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="evaluation needs"):
        evaluation_seeds(*arguments)


def test_known_returns_lengths_and_success():
    with VectorEnv(ConstantReward, seeds=[1, 2], num_envs=2, num_workers=0) as envs:
        episodes = run_episodes(envs, lambda seen, rest: (torch.zeros(2, 2, 1), None), evaluation_seeds(0, 5))
    assert episodes.returns.shape == (2, 5)
    assert episodes.returns.dtype == np.float64
    assert (episodes.returns == 10.0).all()
    assert (episodes.lengths == 10).all()
    assert (episodes.solved_steps == 10).all()
    assert episodes.success.all()


def test_success_needs_more_than_five_solved_steps():
    with VectorEnv(MatchSign, seeds=[1], num_workers=0) as envs:
        episodes = run_episodes(
            envs, lambda seen, rest: (seen["observation"].sign(), None), evaluation_seeds(0, 4)
        )
    assert (episodes.solved_steps == 1).all()
    assert not episodes.success.any()


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7])
def test_episodes_depend_on_their_seeds_alone(num_envs):
    """Rounds, padding, what auto-reset starts, and the other seeds change nothing."""
    seeds = evaluation_seeds(3, 5)
    with VectorEnv(ReachPoint, seeds=[1], num_workers=0) as envs:
        one_by_one = run_episodes(envs, towards_target, seeds)
    with VectorEnv(ReachPoint, seeds=[8, 9], num_envs=num_envs, num_workers=0) as envs:
        envs.reset()
        together = run_episodes(envs, towards_target, seeds)
    for alone, both in zip(one_by_one, together, strict=True):
        assert np.array_equal(both, np.repeat(alone, 2, axis=0))


def test_what_comes_after_an_episode_is_shown_to_no_policy():
    """Of two environments one has ended when the other goes on: its next episode may even begin with NaN."""
    shown = []

    def act(seen, rest):
        shown.append(seen["observation"].clone())
        return seen["observation"].sign(), None

    with VectorEnv(ShortAndLong, seeds=[1], num_envs=2, num_workers=0) as envs:
        episodes = run_episodes(envs, act, [0, 1])
    assert episodes.lengths.tolist() == [[1, 3]]
    assert torch.stack(shown).squeeze().tolist() == [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]


class ShortAndLong(ConstantReward):
    """Of an even seed an episode ends after one step, and the next one begins with NaN."""

    def reset(self, seed=None):
        self.short = seed is not None and seed % 2 == 0
        self.begun = seed is not None
        return super().reset(seed)

    def _start(self):
        return np.full(1, 1.0 if self.begun else np.nan, np.float32)

    def _advance(self, action):
        return np.ones(1, np.float32), 1.0, True, self.short or self._elapsed >= 3


def test_each_seed_plays_its_own_policy():
    def act(seen, rest):
        return torch.stack([towards_target(seen[0])[0], torch.zeros(2, 1)]), None

    with VectorEnv(ReachPoint, seeds=[1, 2], num_envs=2, num_workers=0) as envs:
        episodes = run_episodes(envs, act, evaluation_seeds(0, 10))
    assert episodes.success[0].all()
    assert not episodes.success[1].all()


def test_what_is_left_of_a_plan_comes_back_until_episodes_begin():
    given = []

    def act(seen, rest):
        given.append(rest)
        return torch.zeros(1, 2, 1), torch.full((1, 2, 1, 1), len(given))

    with VectorEnv(ConstantReward, seeds=[1], num_envs=2, num_workers=0) as envs:
        run_episodes(envs, act, evaluation_seeds(0, 4))  # two rounds of 10 steps
    assert [None if rest is None else int(rest[0, 0]) for rest in given] == [
        *(None, *range(1, 10)),
        *(None, *range(11, 20)),
    ]


def test_environment_without_a_time_limit_is_refused():
    class Endless(ConstantReward):
        def __init__(self):
            super().__init__()
            self.spec = attrs.evolve(self.spec, max_episode_steps=None)

    with (
        VectorEnv(Endless, seeds=[1], num_workers=0) as envs,
        pytest.raises(ValueError, match="no time limit"),
    ):
        run_episodes(envs, lambda seen, rest: (torch.zeros(1, 1, 1), None), [1])
