"""Seeds that leave a run, and what the others notice of it: nothing."""

import math

import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.policy_fn import load
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.training import loop
from rlhive.training.resume import restore_metrics
from rlhive.training.run import open_run
from tests.envs.toy import ReachPoint
from tests.training.loop_runs import configure, rows, train

THREE = ("SEEDS=(9, 5, 6)", "train.log_every=1")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run of three seeds that was resumed at step 30, as those below are."""
    directory = tmp_path_factory.mktemp("three")
    train(ReachPoint, directory, *THREE, "TOTAL_STEPS=30")
    return train(ReachPoint, directory, *THREE, resume=True)


def resume_and_break(run_dir, break_it):
    """The same, but for what `break_it(run)` does to it at step 30."""
    train(ReachPoint, run_dir, *THREE, "TOTAL_STEPS=30")
    with open_run(configure(ReachPoint, *THREE), run_dir, resume=True) as run:
        break_it(run)
        assert loop.train(run)
    return run


def break_reward(run, minibatch=4) -> None:
    """Makes the middle seed's reward infinite in its fourth minibatch, or another one."""
    calls, whole = [], run.learner.train_step

    def train_step(state, batch, noise):
        calls.append(batch)
        if len(calls) == minibatch:
            batch["next", "reward"][1] = math.inf
        return whole(state, batch, noise)

    run.learner = run.learner._replace(train_step=train_step)


def break_observation(run) -> None:
    run.rollout["observation"][1] = math.nan


def break_normaliser(run) -> None:
    run.rollout["observation"][1] = 1e20  # finite, but for its square


@pytest.mark.parametrize(
    ("break_it", "what", "at"),
    [
        (break_reward, "loss, a parameter or the optimizer's state", 33),
        (break_observation, "action", 30),
        (break_normaliser, "normaliser", 30),
    ],
)
def test_a_broken_seed_stops_and_leaves_the_others_as_they_were(three, tmp_path, capsys, break_it, what, at):
    run = resume_and_break(tmp_path, break_it)
    assert (
        f"seed 5: the {what} is not finite at step {at}; it stops at its last good state"
        in capsys.readouterr().err
    )
    assert run.seeds == (9, 6) and run.step == 60
    assert bool((run.state == three.state[[0, 2]]).all())
    saved = load_checkpoint(tmp_path, (9, 5, 6))
    assert saved.progress[1] == {"stopped_at": at, "reason": "not finite"}
    assert all(own.keys() == {"metrics"} for own in (saved.progress[0], saved.progress[2]))
    assert saved.state["step"].tolist() == [40, at - 20, 40]
    for seed in (9, 6):
        own = [row for row in rows(tmp_path) if row["seed"] == str(seed)]
        assert own == [row for row in rows(three.run_dir) if row["seed"] == str(seed)]


def test_a_seed_that_breaks_before_anything_is_stored_leaves_the_others(tmp_path):
    with open_run(configure(ReachPoint, "SEEDS=(9, 5, 6)", "TOTAL_STEPS=30"), tmp_path) as run:
        run.rollout["observation"][0] = math.nan
        assert loop.train(run)
    assert run.seeds == (5, 6) and run.step == 30 and run.stopped[9].step == 0


def test_a_seed_that_one_of_several_updates_breaks_keeps_the_state_before_it(tmp_path):
    settings = (*THREE, "train.updates_per_step=3")
    train(ReachPoint, tmp_path, *settings, "TOTAL_STEPS=30")
    with open_run(configure(ReachPoint, *settings), tmp_path, resume=True) as run:
        break_reward(run, minibatch=5)  # the second of the step at 31
        assert loop.train(run)
    saved = load_checkpoint(tmp_path, (9, 5, 6))
    assert saved.progress[1] == {"stopped_at": 31, "reason": "not finite"}
    assert saved.state["step"].tolist() == [120, 34, 120]
    assert all(bool(leaf.isfinite().all()) for leaf in saved.state["params"].values(True, True))


def test_a_seed_whose_evaluation_breaks_stops_and_leaves_the_others_as_they_were(three, tmp_path, capsys):
    bindings = (*THREE, "train.evaluate_every=15", "train.evaluation_episodes=3")
    train(ReachPoint, tmp_path, *bindings, "TOTAL_STEPS=30")
    with open_run(configure(ReachPoint, *bindings), tmp_path, resume=True) as run:
        whole = run.learner.plan

        def plan(state, seen):
            actions = whole(state, seen).clone()
            actions[1] = math.nan if len(actions) == 3 else actions[1]
            return actions

        run.learner = run.learner._replace(plan=plan)
        assert loop.train(run)
    assert "seed 5: the action is not finite at step 45; it stops" in capsys.readouterr().err
    assert run.seeds == (9, 6) and run.step == 60
    assert bool((run.state == three.state[[0, 2]]).all())
    evaluated = [(row["seed"], row["step"]) for row in rows(tmp_path) if row["eval/return"]]
    assert [step for seed, step in evaluated if seed == "5"] == ["15", "30"]
    assert [step for seed, step in evaluated if seed == "6"] == ["15", "30", "45", "60"]


def test_an_evaluation_that_shows_what_is_not_finite_says_so(tmp_path, capsys):
    with open_run(configure(ReachPoint, "SEEDS=(1, 2)"), tmp_path) as run:
        recv = run.evaluation_envs.recv

        def broken():
            step = recv()
            step["observation"][1] = math.nan
            return step

        run.evaluation_envs.recv = broken
        assert loop.train(run)
    assert "seed 2: the observation is not finite at step 60" in capsys.readouterr().err


def test_a_seed_whose_updates_break_its_actions_keeps_the_state_it_acted_with(tmp_path, capsys):
    with pytest.raises(FloatingPointError, match="no seed is left: seed 1 at step 21"):
        train(ReachPoint, tmp_path, "adam.learning_rate=1e25")
    said = "seed 1: the action is not finite at step 21; it stops at its last good state"
    assert said in capsys.readouterr().err
    assert load_checkpoint(tmp_path, [1]).state["step"].tolist() == [0]
    assert load(tmp_path)(np.zeros(2, np.float32)).shape == (1,)


def test_a_seed_whose_updates_break_an_evaluation_keeps_the_state_it_acted_with(tmp_path, capsys):
    bindings = ("adam.learning_rate=1e25", "train.evaluate_every=21")
    with pytest.raises(FloatingPointError, match="no seed is left: seed 1 at step 21"):
        train(ReachPoint, tmp_path, *bindings)
    assert "the action is not finite at step 21" in capsys.readouterr().err
    assert load_checkpoint(tmp_path, [1]).state["step"].tolist() == [0]


def test_metrics_stay_with_their_seed_when_another_one_stops(three, tmp_path):
    rare = (*THREE, "train.updates_per_step=0.1")
    alone = train(ReachPoint, tmp_path / "alone", *rare, "SEEDS=(6,)")
    train(ReachPoint, tmp_path / "run", *rare, "TOTAL_STEPS=30")
    with open_run(configure(ReachPoint, *rare), tmp_path / "run", resume=True) as run:
        break_observation(run)
        assert loop.train(run)
    own = [row for row in rows(run.run_dir) if row["seed"] == "6" and row["loss/qvalue"]]
    assert run.seeds == (9, 6)
    assert own == [row for row in rows(alone.run_dir) if row["loss/qvalue"]]


def test_metrics_come_back_of_the_seeds_that_train(plain):
    saved, stopped = load_checkpoint(plain.run_dir, [1]), {"stopped_at": 20, "reason": "not finite"}
    restored = lambda *progress: restore_metrics(saved._replace(progress=list(progress)))  # noqa: E731
    own = {"metrics": {"loss/actor": 1.5}}
    assert restored(own, stopped, own)["loss/actor"].tolist() == [1.5, 1.5]
    none = {"metrics": {}}
    assert restored(none, stopped, none) == restored(stopped) == {}


def test_a_stopped_seed_stays_stopped_when_the_run_is_resumed(tmp_path):
    resume_and_break(tmp_path, break_reward)
    longer = train(ReachPoint, tmp_path, *THREE, "TOTAL_STEPS=80", resume=True)
    assert longer.seeds == (9, 6) and longer.step == 80
    saved = load_checkpoint(tmp_path, (9, 5, 6))
    assert saved.progress[1] == {"stopped_at": 33, "reason": "not finite"}
    assert saved.state["step"].tolist() == [60, 13, 60]


@pytest.mark.parametrize(
    "bindings", [("train.checkpoint_every=20",), ("replay.prioritized=True",), ("adam.max_grad_norm=1.0",)]
)
def test_a_run_without_a_finite_seed_ends_with_its_last_good_state(tmp_path, bindings):
    with pytest.raises(FloatingPointError, match=r"no seed is left: seed 1 at step 20 \(not finite\); their"):
        train(ReachPoint, tmp_path, "sac_loss.reward_scale=1e39", *bindings)
    saved = load_checkpoint(tmp_path, [1])
    assert saved.step == 20 and saved.progress == [{"stopped_at": 20, "reason": "not finite"}]
    with pytest.raises(LoadError, match="none of its seeds is left to train: seed 1 at step 20"):
        train(ReachPoint, tmp_path, resume=True)


def succeed_from_the_second_evaluation(patch):
    """Lets the middle one of three seeds do so, and no other."""
    run_episodes, calls = loop.run_episodes, []

    def played(envs, act, seeds):
        outcome = run_episodes(envs, act, seeds)
        calls.append(outcome)
        success = np.zeros_like(outcome.success)
        success[1] = len(success) == 3 and len(calls) > 1
        return outcome._replace(success=success)

    patch.setattr(loop, "run_episodes", played)


def test_a_seed_that_met_its_target_stops_and_the_others_go_on(tmp_path, monkeypatch):
    bindings = ("NUM_SEEDS=3", "train.evaluate_every=20")
    with monkeypatch.context() as patch:
        succeed_from_the_second_evaluation(patch)
        free = train(ReachPoint, tmp_path / "free", *bindings)
    with monkeypatch.context() as patch:
        succeed_from_the_second_evaluation(patch)
        run = train(ReachPoint, tmp_path / "target", *bindings, "train.target_success=0.6")
    evaluated = {
        (row["seed"], int(row["step"])): float(row["eval/success"])
        for row in rows(free.run_dir)
        if row["eval/success"]
    }
    expected = {}
    for seed in (1, 2, 3):
        met = [step for (of, step), rate in sorted(evaluated.items()) if of == str(seed) and rate >= 0.6]
        if met:
            expected[seed] = met[0]
    assert {seed: one.step for seed, one in run.stopped.items()} == expected
    assert expected
    saved = load_checkpoint(run.run_dir, (1, 2, 3))
    for index, seed in enumerate((1, 2, 3)):
        if seed in expected:
            assert saved.progress[index]["reason"] == "target met"
        else:
            assert bool((saved.state[index] == free.state[index]).all())
