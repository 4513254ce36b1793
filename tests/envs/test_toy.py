import pickle

import numpy as np
import pytest

from tests.envs.toy import ConstantReward, MatchSign, ReachPoint

TOYS = (ConstantReward, MatchSign, ReachPoint)


def play(env, policy, seed):
    observation, results = env.reset(seed), []
    while not results or not (results[-1].terminated or results[-1].truncated):
        results.append(env.step(policy(observation)))
        observation = results[-1].observation
    return results


@pytest.mark.parametrize("toy", TOYS)
def test_toy_keeps_the_interface_of_robohive(toy):
    env = pickle.loads(pickle.dumps(toy))()
    assert env.spec.name == toy.__name__
    observation = env.reset(0)
    assert observation.shape == (env.spec.observation_dim,) and observation.dtype == np.float32
    result = env.step(np.zeros(1, np.float32))
    assert result.observation.shape == observation.shape and result.observation.dtype == np.float32
    assert [type(value) for value in result[1:]] == [float, bool, bool, bool, float]
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan], np.float32))
    env.close()


@pytest.mark.parametrize("toy", TOYS)
def test_seed_determines_the_episodes(toy):
    starts = [[env.reset(4), env.reset(), env.reset()] for env in (toy(), toy())]
    assert np.array_equal(*starts)


def test_constant_reward_is_one_until_the_time_limit():
    results = play(ConstantReward(), lambda _: np.array([0.3], np.float32), 0)
    assert [result.reward for result in results] == [1.0] * 10
    assert results[-1].truncated and not results[-1].terminated


def test_match_sign_pays_for_copying_the_observation():
    env = MatchSign()
    for seed in range(20):
        (best,) = play(env, lambda observation: observation, seed)
        (worst,) = play(env, lambda observation: -observation, seed)
        assert (best.reward, best.solved, worst.reward, worst.solved) == (1.0, True, -1.0, False)
        assert best.terminated


def test_reach_point_is_solved_by_its_best_action_within_eight_steps():
    env = ReachPoint()
    for seed in range(20):
        results = play(env, lambda state: np.clip(4 * (state[1:] - state[:1]), -1, 1), seed)
        assert len(results) == 20 and results[-1].truncated
        assert all(result.solved for result in results[7:])
        assert results[-1].reward == pytest.approx(0.0, abs=1e-6)
