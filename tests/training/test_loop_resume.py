"""A run that continues from its checkpoint, and what it refuses."""

import csv
import shutil
import signal

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.core.errors import LoadError
from rlhive.core.optim import GradientTransformation
from rlhive.core.replay import ReplayBuffer
from rlhive.core.tree import map_tree, zeros_like
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.training import loop
from rlhive.training import run as runs
from rlhive.training.run import open_run
from rlhive.training.session import go_on
from tests.envs.toy import ConstantReward, ReachPoint
from tests.helpers import rewrite
from tests.training.loop_runs import configure, rows, stored, train


def test_resuming_goes_on_where_the_checkpoint_was(tmp_path):
    train(ReachPoint, tmp_path, "TOTAL_STEPS=40")
    with open_run(configure(ReachPoint), tmp_path, resume=True) as run:
        saved = load_checkpoint(tmp_path, [1])
        assert run.step == saved.step == 40
        assert len(run.replay) == 40
        assert bool((run.state == saved.state).all())
        for name, generator in run.generators[0].items():
            assert torch.equal(generator.get_state(), saved.generators[name][0])
        assert loop.train(run)
    assert run.state["step"].item() == run.state["opt_state", "count"].item() == 40
    assert run.state["env_state", "observation", "count"].item() == len(run.replay) == 60
    assert [int(row["step"]) for row in rows(tmp_path) if row["eval/return"]] == [40, 60]


@pytest.mark.parametrize(
    "bindings",
    [
        (),
        ("NUM_SEEDS=3", "NUM_ENVS=2", "train.log_every=4", "train.target_success=0.3"),
        (
            "train.exploration=@ornstein_uhlenbeck",
            "train.log_every=7",
            "replay.prioritized=True",
            "replay.n_step=3",
            "GAMMA=0.95",
        ),
        ("train.updates_per_step=0.1", "train.log_every=1"),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, bindings):
    bindings = (*bindings, "train.evaluate_every=20", "train.evaluation_episodes=4")
    whole = train(ReachPoint, tmp_path / "whole", *bindings)
    for steps in (26, 42, 60):  # in the middle of an episode
        resumed = train(
            ReachPoint, tmp_path / "resumed", *bindings, f"TOTAL_STEPS={steps}", resume=steps > 26
        )
    for name, value in stored(whole).items():
        assert torch.equal(stored(resumed)[name], value), name
    assert bool((resumed.state == whole.state).all()) and resumed.seeds == whole.seeds
    for name, value in whole.rollout.flatten_keys(".").items():
        torch.testing.assert_close(
            resumed.rollout.flatten_keys(".")[name], value, rtol=0, atol=0, equal_nan=True
        )
    ends = ("26", "42")  # a run that ends is evaluated
    assert [row for row in rows(resumed.run_dir) if row["step"] not in ends] == [
        row for row in rows(whole.run_dir) if row["step"] not in ends
    ]


def raise_interrupt(*args):
    raise KeyboardInterrupt


def test_the_last_state_is_saved_before_the_last_evaluation(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "run_episodes", raise_interrupt)
        train(ReachPoint, tmp_path)
    assert load_checkpoint(tmp_path, [1]).step == 60
    assert len(train(ReachPoint, tmp_path, "TOTAL_STEPS=70", resume=True).replay) == 70


def test_an_evaluation_that_the_end_of_a_run_did_not_come_to_is_made_up_for(plain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_evaluate", raise_interrupt)
        train(ReachPoint, tmp_path)
    assert not any(row["eval/return"] for row in rows(tmp_path) if "eval/return" in row)
    for _ in range(2):  # and once only
        train(ReachPoint, tmp_path, resume=True)
        assert rows(tmp_path) == rows(plain.run_dir)


def test_an_evaluation_of_which_a_part_was_lost_is_there_once(tmp_path):
    train(ReachPoint, tmp_path, "SEEDS=(1, 2)")
    path, whole = tmp_path / "metrics.csv", rows(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    train(ReachPoint, tmp_path, "SEEDS=(1, 2)", resume=True)
    assert rows(tmp_path) == whole
    steps = [line.split(",")[0] for line in (tmp_path / "metrics_over_seeds.csv").read_text().splitlines()]
    assert steps[-2:] == ["60", "60"] and steps.count("60") == 2  # of the update, and of the evaluation


def over_seeds(run_dir) -> list[dict[str, str]]:
    with (run_dir / "metrics_over_seeds.csv").open() as file:
        return [{**row, "wall_time": ""} for row in csv.DictReader(file)]


def test_an_evaluation_that_is_made_up_for_counts_the_seed_that_stopped_in_it(tmp_path, monkeypatch):
    run_episodes, bindings = loop.run_episodes, ("SEEDS=(1, 2)", "train.target_success=0.5")

    def let_seed_1_succeed(*args):
        outcome = run_episodes(*args)
        return outcome._replace(success=np.array([[True], [False]])[-len(outcome.success) :])

    monkeypatch.setattr(loop, "run_episodes", let_seed_1_succeed)
    train(ReachPoint, tmp_path, *bindings)
    path, whole = tmp_path / "metrics.csv", over_seeds(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])  # in the row of seed 2
    train(ReachPoint, tmp_path, *bindings, resume=True)
    assert over_seeds(tmp_path) == whole and whole[-1]["num_seeds"] == "2"


def test_ctrl_c_in_the_last_step_leaves_its_evaluation_to_the_resumed_run(plain, tmp_path, monkeypatch):
    step = loop._step

    def last_step(run, progress):
        step(run, progress)
        if run.step == 60:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, open_run(configure(ReachPoint), tmp_path) as run:
        patch.setattr(loop, "_step", last_step)
        assert not loop.train(run)
    train(ReachPoint, tmp_path, resume=True)
    assert rows(tmp_path) == rows(plain.run_dir)


def test_a_crash_while_a_step_is_saved_again_leaves_what_can_be_resumed(tmp_path, monkeypatch):
    """A seed meets its target in the last evaluation, after which the step is saved for the second time."""
    bindings = ("SEEDS=(1, 2)", "train.target_success=0.5")
    run_episodes, saved = loop.run_episodes, runs.save_checkpoint

    def succeed_once(*args):
        outcome = run_episodes(*args)
        return outcome._replace(success=np.array([[True], [False]]))

    def crash(*args, progress, **rest):
        if any("stopped_at" in of_seed for of_seed in progress):
            raise KeyboardInterrupt
        return saved(*args, progress=progress, **rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "run_episodes", succeed_once)
        patch.setattr(runs, "save_checkpoint", crash)
        train(ReachPoint, tmp_path, *bindings)
    assert train(ReachPoint, tmp_path, *bindings, "TOTAL_STEPS=70", resume=True).seeds == (1, 2)


def test_a_run_is_resumed_with_its_seeds_in_another_order(tmp_path):
    small = ("train.exploration=@ornstein_uhlenbeck", "NUM_ENVS=2", "replay.prioritized=True")
    whole = train(ReachPoint, tmp_path / "whole", *small, "SEEDS=(5, 6)")
    for steps, order in ((26, (5, 6)), (44, (6, 5)), (60, (5, 6))):
        resumed = train(
            ReachPoint, tmp_path / "run", *small, f"SEEDS={order}", f"TOTAL_STEPS={steps}", resume=steps > 26
        )
    assert bool((resumed.state == whole.state).all())
    assert all(torch.equal(stored(resumed)[name], value) for name, value in stored(whole).items())


def test_a_replay_smaller_than_an_episode_is_refused(tmp_path):
    config = configure(ReachPoint)
    with attrs.validators.disabled():  # which would ask for the id of an environment
        small = attrs.evolve(config, make_replay=lambda **given: ReplayBuffer(19, **given))
    with (
        pytest.raises(ValueError, match=r"replay\.capacity=19 must be at least 20, an episode"),
        open_run(small, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        (
            "sac_network.hidden_sizes=(8, 8)",
            r"another network: hidden_sizes is \(16,\) there, \(8, 8\) in",
        ),
        (
            "train.exploration=@ornstein_uhlenbeck",
            r"train.exploration: process of its state is missing there, \[1",
        ),
        ("replay.capacity=500", "its replay cannot be read: .*max_rows 1000, .*500"),
        (
            "SEED=2",
            r"holds the seeds \[1\], but \[2\] are requested: a run continues with all of its seeds; without",
        ),
    ],
)
def test_a_run_of_other_settings_cannot_be_resumed(plain, binding, words):
    with (
        pytest.raises(LoadError, match=words) as caught,
        open_run(configure(ReachPoint, binding), plain.run_dir, resume=True),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def copy(plain, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(plain.run_dir, tmp_path / "run", symlinks=True)


def test_a_missing_replay_is_refused_before_anything_is_started(copy):
    path = copy / "replay" / "60.safetensors"
    path.unlink()
    words = (
        r"60\.safetensors: is missing, without which training cannot continue: copy it from where the run was"
    )
    with pytest.raises(LoadError, match=words):
        go_on(configure(ReachPoint), copy)
    with pytest.raises(LoadError, match=words), open_run(configure(ReachPoint), copy, resume=True):
        pass


@pytest.mark.parametrize("origin", [{"run_id": "0" * 64}, {"step": "50"}])
def test_a_replay_of_another_run_or_step_is_refused(copy, origin):
    path = copy / "replay" / "60.safetensors"
    rewrite(path, lambda tensors, header: header.update(origin))
    (name,) = origin
    words = f"is of another run or step, {name} {origin[name]} instead of .*: copy it again"
    with pytest.raises(LoadError, match=words):
        go_on(configure(ReachPoint), copy)
    with pytest.raises(LoadError, match=words), open_run(configure(ReachPoint), copy, resume=True):
        pass


@pytest.mark.parametrize("name", ["run_id", "step"])
def test_a_replay_that_does_not_say_where_it_is_from_is_refused(copy, name):
    rewrite(copy / "replay" / "60.safetensors", lambda tensors, header: header.pop(name))
    words = rf"is of another run or step, {name} None instead of .*: copy it again"
    with pytest.raises(LoadError, match=words), open_run(configure(ReachPoint), copy, resume=True):
        pass


def sgd():
    return GradientTransformation(
        lambda params: TensorDict({}, batch_size=[]),
        lambda grads, opt_state, params: (map_tree(lambda grad: -1e-3 * grad, grads), opt_state),
    )


def momentum():
    def update(grads, opt_state, params):
        velocity = map_tree(lambda old, new: 0.9 * old + new, opt_state["velocity"], grads)
        return map_tree(lambda leaf: -1e-3 * leaf, velocity), TensorDict({"velocity": velocity})

    return GradientTransformation(lambda params: TensorDict({"velocity": zeros_like(params)}), update)


def train_by(optimizer, run_dir, *bindings, resume=False):
    with (
        attrs.validators.disabled(),
        open_run(
            attrs.evolve(configure(ReachPoint, *bindings), optimizer=optimizer), run_dir, resume=resume
        ) as run,
    ):
        assert loop.train(run)
    return run


def test_a_run_by_an_optimizer_without_a_state_is_resumed_and_by_no_other(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = train_by(sgd, tmp_path / "whole", "TOTAL_STEPS=40")
    train_by(sgd, tmp_path, "TOTAL_STEPS=26")
    with pytest.raises(
        LoadError, match=r"another train.optimizer: velocity/.* of its state is missing there, \["
    ):
        train_by(momentum, tmp_path, resume=True)
    resumed = train_by(sgd, tmp_path, "TOTAL_STEPS=40", resume=True)
    assert bool((resumed.state == whole.state).all())


def test_a_run_by_another_optimizer_cannot_be_resumed(plain):
    for other in (sgd, momentum):
        with pytest.raises(LoadError, match=r"another train.optimizer: mu/.* there, missing in"):
            train_by(other, plain.run_dir, resume=True)


def test_a_run_of_another_environment_cannot_be_resumed(plain):
    with (
        pytest.raises(LoadError, match=r"another env: name is 'ReachPoint' there, 'ConstantReward' in"),
        open_run(configure(ConstantReward), plain.run_dir, resume=True),
    ):
        pass


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("NUM_ENVS=2", "NUM_ENVS=2, its replay is of 1: leave it as it was"),
        ("replay.capacity=500", r"replay\.capacity=500, its replay is of 1000: leave it as it was"),
        ("replay.prioritized=True", r"replay\.prioritized=True, its replay is of False: leave it as it was"),
    ],
)
def test_a_replay_of_other_settings_is_refused_before_anything_is_started(plain, binding, words):
    with pytest.raises(LoadError, match=words):
        go_on(configure(ReachPoint, binding), plain.run_dir)
