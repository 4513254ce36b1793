"""Episodes recorded and replayed where the logged state lacks what the reset drew."""

import h5py
import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.data.inspection import inspect
from rlhive.data.playback import Drift, format_drifts, replay
from rlhive.data.record import play, record
from rlhive.data.trace import trace_file, write_trial
from rlhive.envs.robohive import RoboHive

FINGER = "motorFingerPoseRandom-v0"  # its target is drawn, and in no state


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "demo.h5"
    record(FINGER, "random", 2, path, seed=5)
    return path


@pytest.fixture
def seedless(recorded, tmp_path):
    """The same as files of others are."""
    path = tmp_path / "seedless.h5"
    path.write_bytes(recorded.read_bytes())
    with h5py.File(path, "r+") as file:
        for trial in file.values():
            del trial.attrs["seed"]
    return path


@pytest.fixture
def finger():
    env = RoboHive(FINGER)
    yield env
    env.close()


def random_actions(env):
    rng = np.random.default_rng(0)
    return lambda seen, rest: (rng.uniform(env.spec.action_low, env.spec.action_high), None)


def test_what_reset_drew_comes_back_with_the_seed_of_the_trial(recorded, tmp_path):
    drifts = replay(recorded, out=tmp_path / "again.h5")
    assert [drift.steps for drift in drifts] == [200, 200]
    assert not any(drift.largest.any() for drift in drifts)
    assert len(format_drifts(drifts).splitlines()) == 3  # there is nothing to warn of
    with h5py.File(recorded) as file, h5py.File(tmp_path / "again.h5") as again:
        for name in ("Trial0", "Trial1"):
            assert np.array_equal(file[name]["rewards"], again[name]["rewards"])
            assert file[name].attrs["seed"] == again[name].attrs["seed"]
        assert file["Trial0"].attrs["seed"] != file["Trial1"].attrs["seed"]


def test_without_the_seed_another_start_is_told_of_and_not_written(seedless, tmp_path):
    drifts = replay(seedless)
    assert all(drift.starts_elsewhere for drift in drifts)
    assert "\n2 of 2 trials do not start where the logged ones do: the reset drew " in format_drifts(drifts)
    with pytest.raises(
        ValueError, match=rf"Trial0: starts .* away from what was logged when played in {FINGER}"
    ) as refused:
        replay(seedless, out=tmp_path / "again.h5")
    refusal = str(refused.value)
    # It was recorded nowhere else.
    assert "Only files that hold the seed of each trial" in refusal and "Play it" not in refusal
    assert not (tmp_path / "again.h5").exists()


def test_what_is_observed_is_compared_by_name_where_observations_are_of_other_parts(seedless):
    with h5py.File(seedless, "r+") as file:
        for trial in file.values():
            values = trial["observations"][:, :1]
            del trial["observations"]
            trial["observations"] = values
    assert all(drift.starts_elsewhere for drift in replay(seedless))


def test_half_precision_starts_further_away():
    def drift(first, half):
        return Drift("Trial0", 0, np.array([first]), 0.0, 0.0, half)

    for first, half, elsewhere in (
        (5e-4, False, False),
        (5e-3, False, True),
        (0.05, True, False),
        (0.5, True, True),
    ):
        assert drift(first, half).starts_elsewhere == elsewhere
    assert drift(np.nan, True).starts_elsewhere


def test_returns_that_differ_are_told_of():
    def said(logged, played):
        return format_drifts([Drift("Trial0", 3, np.zeros(4), logged, played, False)])

    assert "1 of 1 trials have returns that differ by more than 1 %" in said(-44.86, -46.38)
    for logged, played in ((-44.86, -44.87), (0.0, 0.009), (np.nan, 3.0)):
        assert "1 %" not in said(logged, played)


def test_what_drifts_away_later_is_told_of():
    def said(largest, half):
        return format_drifts([Drift("Trial0", 1, largest, -3.0, -3.0, half)])

    later = "1 of 1 trials have returns that differ by more than 1 % or drift by more than 0.001: "
    assert later in said(np.array([0.0, 0.8]), False) and later in said(np.array([0.0, np.nan]), False)
    for largest, half in ((np.array([0.0, 9e-4]), False), (np.array([0.0, 0.8]), True), (None, False)):
        assert later not in said(largest, half)
    assert later not in said(np.array([0.5, 0.8]), False)  # which is told of as another start


def test_the_table_grants_half_precision_what_the_start_does():
    half = Drift("Trial0", 0, np.array([0.05]), 0.0, 0.0, True)
    assert "which explains a drift of up to 0.1 at the first step" in format_drifts([half])


@pytest.mark.parametrize("value", ["seven", -1, 0.5, [1, 2]])
def test_a_seed_that_is_none_is_damage(recorded, tmp_path, value):
    path = tmp_path / "damaged.h5"
    path.write_bytes(recorded.read_bytes())
    with h5py.File(path, "r+") as file:
        file["Trial0"].attrs["seed"] = value
    with pytest.raises(
        LoadError, match="Trial0: its attribute 'seed' must be a whole number of at least 0, is "
    ):
        replay(path)


def test_an_episode_that_starts_done_has_one_step(finger, tmp_path, monkeypatch):
    reward_of = finger.env.get_reward_dict
    monkeypatch.setattr(
        finger.env, "get_reward_dict", lambda seen: reward_of(seen) | {"done": np.ones((1, 1), bool)}
    )
    values = play(finger, finger.reset(0), random_actions(finger), 200)
    assert values["done"].tolist() == [True, True]
    with trace_file(tmp_path / "done.h5", FINGER) as file:
        write_trial(file, "Trial0", values)
    _, [trial] = inspect(tmp_path / "done.h5")
    assert trial.summary.steps == 1


def test_recording_changes_no_episode_where_each_observation_draws():
    """The hand's next reference is drawn whenever it is observed."""
    env = RoboHive("MyoHandKnifeRandom-v0")
    first, act = env.reset(3), random_actions(env)
    actions = [act(None, None)[0].astype(np.float32) for _ in range(50)]
    steps = []
    while not steps or not steps[-1].terminated:
        steps.append(env.step(actions[len(steps)]))
    values = play(env, env.reset(3), random_actions(env), 50)
    parts = [values[f"env_infos/obs_dict/{key}"][0] for key in env.spec.observation_keys]
    env.close()
    assert np.array_equal(np.concatenate(parts).astype(np.float32), first)
    assert np.array_equal(values["observations"], [first, *(step.observation for step in steps)])
    assert np.array_equal(values["rewards"][1:].ravel(), [step.reward for step in steps])
