"""The training loop in this process, on tiny environments: counts, streams, stops."""

import csv
import math

import attrs
import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict

import gin
from rlhive.config import load_config
from rlhive.core import loop, online
from rlhive.core.checkpoint import load_checkpoint
from rlhive.core.resume import restore_metrics
from rlhive.core.rollout import count_step, episode_summary, init_episodes, latest_episodes
from rlhive.core.run import open_run, store_step
from rlhive.core.tree_file import LoadError
from rlhive.envs.toy import ConstantReward, MatchSign, ReachPoint
from rlhive.progress import Progress

SMALL = [
    "train.num_workers=0",
    "train.loggers=()",
    "sac_network.hidden_sizes=(16, 16)",
    "train.batch_size=8",
    "train.init_random_steps=20",
    "TOTAL_STEPS=60",
    "train.evaluate_every=1000",
    "train.evaluation_episodes=1",
    "train.log_every=10",
    "replay.capacity=1000",
]


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


def configure(env, *bindings):
    """The configuration of a run of a RoboHive id, or of a toy, which no file can name."""
    config = load_config(["sac_gaussian.gin"], [*SMALL, *bindings])
    with attrs.validators.disabled():
        return config if isinstance(env, str) else attrs.evolve(config, env_name=env)


def train(env, run_dir, *bindings, resume=False):
    """Trains, and returns the run as the loop leaves it."""
    run_dir.mkdir(exist_ok=True)
    with open_run(configure(env, *bindings), run_dir, resume=resume) as run:
        assert loop.train(run)
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run of seed 1 on `ReachPoint`, to be read only."""
    return train(ReachPoint, tmp_path_factory.mktemp("plain"))


def stored(run) -> dict[str, torch.Tensor]:
    """The transitions on disk, `[T, S, E, ...]`."""
    return load_file(run.run_dir / "replay" / f"{run.step}.safetensors")


def rows(run_dir) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "wall_time"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("bindings", "updates"),
    [
        (("train.updates_per_step=2.0",), 80),
        (("train.updates_per_step=0.5",), 20),
        (("train.updates_per_step=0",), 0),
        (("train.updates_per_step=0.25", "NUM_ENVS=2"), 10),
        (("train.init_random_steps=0",), 52),  # the replay holds a minibatch from step 8 on
    ],
)
def test_updates_per_step(tmp_path, bindings, updates):
    run = train(ReachPoint, tmp_path, *bindings)
    assert run.step == 60
    assert run.state["step"].tolist() == run.state["opt_state", "count"].tolist() == [updates]


def test_metrics_are_logged_between_rare_updates_too(tmp_path):
    train(ReachPoint, tmp_path, "train.updates_per_step=0.15")
    logged = [row["step"] for row in rows(tmp_path) if row["loss/actor"]]
    assert logged == ["30", "40", "50", "60"]


def test_one_update_per_step_is_the_default(plain):
    assert plain.state["step"].tolist() == [40]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_normaliser_has_taken_in_every_step_once(plain, tmp_path, num_envs):
    run = plain if num_envs == 1 else train(ReachPoint, tmp_path, f"NUM_ENVS={num_envs}")
    normalizer = run.state[0]["env_state", "observation"]
    seen = stored(run)["observation"].double().flatten(0, 2)
    assert normalizer["count"].item() == len(seen) == 60
    torch.testing.assert_close(normalizer["loc"].double(), seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalizer["scale"].double(), seen.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_the_replay_has_raw_observations_and_actions_as_taken(plain):
    part = {name: tensor[:, 0, 0] for name, tensor in stored(plain).items()}
    position, target = part["observation"].T
    moved = position + 0.25 * part["action"][:, 0]
    torch.testing.assert_close(part["next.observation"], torch.stack([moved, target], dim=-1))
    torch.testing.assert_close(part["next.reward"][:, 0], -(target - moved).abs())
    assert part["action"].unique().numel() > 30


def test_a_time_limit_keeps_the_bootstrap_and_the_true_successor(plain):
    part = {name: tensor[:, 0, 0] for name, tensor in stored(plain).items()}
    ends = [19, 39, 59]
    assert part["next.done"].flatten().nonzero().flatten().tolist() == ends
    assert not bool(part["next.terminated"].any())
    same = (part["next.observation"][:-1] == part["observation"][1:]).all(-1)
    assert (~same).nonzero().flatten().tolist() == ends[:-1]  # there the next row begins a new episode
    assert bool((part["next.observation"][ends, 1] == part["observation"][ends, 1]).all())


def test_a_termination_is_stored_as_one(tmp_path):
    assert bool(stored(train(MatchSign, tmp_path))["next.terminated"].all())


def test_random_actions_fill_the_limits(tmp_path):
    random = train(ReachPoint, tmp_path, "train.init_random_steps=60")
    action = stored(random)["action"].flatten()
    assert action.min() < -0.8 and action.max() > 0.8 and abs(action.mean()) < 0.25


def test_seed_k_of_several_equals_its_run_alone_bit_for_bit(tmp_path):
    both = train(ReachPoint, tmp_path / "both", "NUM_SEEDS=2", "SEED=5", "NUM_ENVS=2", "train.tau=0.05")
    for index, seed in enumerate((5, 6)):
        alone = train(ReachPoint, tmp_path / f"{seed}", f"SEED={seed}", "NUM_ENVS=2", "train.tau=0.05")
        ours, theirs = stored(alone), stored(both)
        assert all(torch.equal(tensor, theirs[name][:, index : index + 1]) for name, tensor in ours.items())
        assert bool((alone.state[0] == both.state[index]).all())
        own = [row for row in rows(tmp_path / "both") if row["seed"] == str(seed)]
        assert rows(tmp_path / f"{seed}") == own


def test_without_updates_a_seed_of_several_equals_its_run_alone_bit_for_bit(tmp_path):
    bindings = ("train.init_random_steps=60", "train.evaluate_every=1000")
    both = train(ReachPoint, tmp_path / "both", "NUM_SEEDS=2", *bindings)
    alone = train(ReachPoint, tmp_path / "alone", "SEED=2", *bindings)
    assert bool((alone.state[0] == both.state[1]).all())
    assert all(torch.equal(t, stored(both)[name][:, 1:]) for name, t in stored(alone).items())


def test_the_same_seed_gives_the_same_run_and_another_one_another(plain, tmp_path):
    again, other = (train(ReachPoint, tmp_path / str(seed), f"SEED={seed}") for seed in (1, 2))
    without_seed = [[{**row, "seed": ""} for row in rows(run.run_dir)] for run in (plain, again, other)]
    assert without_seed[0] == without_seed[1] != without_seed[2]
    assert bool((plain.state == again.state).all())
    assert not bool((plain.state == other.state).all())


def test_evaluations_checkpoints_and_rows_come_when_they_are_due(tmp_path):
    train(
        ReachPoint, tmp_path, "NUM_ENVS=3", "train.evaluate_every=25", "train.checkpoint_every=20",
        "train.log_every=15",
    )  # fmt: skip
    evaluated = [int(row["step"]) for row in rows(tmp_path) if row["eval/return"]]
    logged = [int(row["step"]) for row in rows(tmp_path) if row["loss/actor"]]
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if not path.is_symlink())
    assert evaluated == [27, 51, 60]  # the first steps past 25 and 50, and the end
    assert logged == [30, 45, 60]
    assert saved == [21, 42, 60]
    assert [path.name for path in (tmp_path / "replay").iterdir()] == ["60.safetensors"]


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
        ("train.exploration=@ornstein_uhlenbeck", "train.log_every=7"),
        ("replay.prioritized=True", "replay.n_step=3", "GAMMA=0.95"),
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


def test_the_last_state_is_saved_before_the_last_evaluation(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "run_episodes", interrupt)
        train(ReachPoint, tmp_path)
    assert load_checkpoint(tmp_path, [1]).step == 60
    assert len(train(ReachPoint, tmp_path, "TOTAL_STEPS=70", resume=True).replay) == 70


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
    with pytest.raises(
        ValueError, match=r"replay\.capacity must be at least 40, an episode of each environment, got 20"
    ):
        train(ReachPoint, tmp_path, "replay.capacity=20", "NUM_ENVS=2")


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        (
            "sac_network.hidden_sizes=(8, 8)",
            r"another network: hidden_sizes is \(16, 16\) there, \(8, 8\) in",
        ),
        ("replay.capacity=500", "its replay cannot be read: .*max_rows 1000, .*500"),
        ("SEED=2", r"holds the seeds \[1\], but \[2\]"),
    ],
)
def test_a_run_of_other_settings_cannot_be_resumed(plain, binding, words):
    with (
        pytest.raises(LoadError, match=words) as caught,
        open_run(configure(ReachPoint, binding), plain.run_dir, resume=True),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_run_of_another_environment_cannot_be_resumed(plain):
    with (
        pytest.raises(LoadError, match=r"another env: name is 'ReachPoint' there, 'ConstantReward' in"),
        open_run(configure(ConstantReward), plain.run_dir, resume=True),
    ):
        pass


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


def break_reward(run) -> None:
    """Makes the middle seed's reward infinite in its fourth minibatch."""
    calls, whole = [], run.learner.train_step

    def train_step(state, batch, noise):
        calls.append(batch)
        if len(calls) == 4:
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
        (break_reward, "loss or a parameter", 33),
        (break_observation, "action", 30),
        (break_normaliser, "normaliser", 30),
    ],
)
def test_a_broken_seed_is_frozen_and_leaves_the_others_as_they_were(
    three, tmp_path, capsys, break_it, what, at
):
    run = resume_and_break(tmp_path, break_it)
    assert (
        f"seed 5: the {what} is not finite at step {at}; it is frozen at its last good state"
        in capsys.readouterr().err
    )
    assert run.seeds == (9, 6) and run.step == 60
    assert bool((run.state == three.state[[0, 2]]).all())
    saved = load_checkpoint(tmp_path, (9, 5, 6))
    assert saved.counters[1] == {"stopped_at": at, "reason": "not finite"}
    assert all(own.keys() == {"metrics"} for own in (saved.counters[0], saved.counters[2]))
    assert saved.state["step"].tolist() == [40, at - 20, 40]
    for seed in (9, 6):
        own = [row for row in rows(tmp_path) if row["seed"] == str(seed)]
        assert own == [row for row in rows(three.run_dir) if row["seed"] == str(seed)]


def test_a_seed_whose_evaluation_breaks_is_frozen_and_leaves_the_others_as_they_were(three, tmp_path, capsys):
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
    assert "seed 5: the action is not finite at step 45; it is frozen" in capsys.readouterr().err
    assert run.seeds == (9, 6) and run.step == 60
    assert bool((run.state == three.state[[0, 2]]).all())
    evaluated = [(row["seed"], row["step"]) for row in rows(tmp_path) if row["eval/return"]]
    assert [step for seed, step in evaluated if seed == "5"] == ["15", "30"]
    assert [step for seed, step in evaluated if seed == "6"] == ["15", "30", "45", "60"]


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


def test_metrics_come_back_where_every_seed_that_trains_has_some(plain):
    saved, stopped = load_checkpoint(plain.run_dir, [1]), {"stopped_at": 20, "reason": "not finite"}
    restored = lambda *counters: restore_metrics(saved._replace(counters=list(counters)))  # noqa: E731
    own = {"metrics": {"loss/actor": 1.5}}
    assert restored(own, stopped, own)["loss/actor"].tolist() == [1.5, 1.5]
    assert restored(own, {}) == restored({}, own) == restored(stopped) == {}


def test_a_frozen_seed_stays_frozen_when_the_run_is_resumed(tmp_path):
    resume_and_break(tmp_path, break_reward)
    longer = train(ReachPoint, tmp_path, *THREE, "TOTAL_STEPS=80", resume=True)
    assert longer.seeds == (9, 6) and longer.step == 80
    saved = load_checkpoint(tmp_path, (9, 5, 6))
    assert saved.counters[1] == {"stopped_at": 33, "reason": "not finite"}
    assert saved.state["step"].tolist() == [60, 13, 60]


@pytest.mark.parametrize(
    "bindings", [("train.checkpoint_every=20",), ("replay.prioritized=True",), ("adam.max_grad_norm=1.0",)]
)
def test_a_run_without_a_finite_seed_ends_with_its_last_good_state(tmp_path, bindings):
    with pytest.raises(FloatingPointError, match=r"no seed is left: seed 1 at step 20 \(not finite\); their"):
        train(ReachPoint, tmp_path, "sac_loss.reward_scale=1e39", *bindings)
    saved = load_checkpoint(tmp_path, [1])
    assert saved.step == 20 and saved.counters == [{"stopped_at": 20, "reason": "not finite"}]
    with pytest.raises(LoadError, match="none of its seeds is left to train: seed 1 at step 20"):
        train(ReachPoint, tmp_path, resume=True)


def test_a_seed_that_met_its_target_stops_and_the_others_go_on(tmp_path):
    bindings = (
        *("NUM_SEEDS=3", "TOTAL_STEPS=600", "train.batch_size=32", "train.evaluation_episodes=5"),
        *("adam.learning_rate=1e-2", "train.evaluate_every=200"),
    )
    free = train(ReachPoint, tmp_path / "free", *bindings)
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
            assert saved.counters[index]["reason"] == "target met"
        else:
            assert bool((saved.state[index] == free.state[index]).all())


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


def test_a_toy_with_one_right_answer_is_learned(tmp_path):
    bindings = (
        "TOTAL_STEPS=400",
        "train.batch_size=32",
        "train.evaluation_episodes=20",
        "adam.learning_rate=1e-2",
    )
    train(MatchSign, tmp_path, *bindings)
    assert float(rows(tmp_path)[-1]["eval/return"]) > 0.9  # 1 is the best, 0 what chance gives


def test_the_last_step_is_stored_once_when_it_is_asked_for(tmp_path):
    with open_run(configure(ReachPoint), tmp_path) as run:
        store_step(run)  # there is none yet
        for _ in range(2):
            online.step(run, Progress(2))
        seen = run.unstored["next", "observation"].clone()
        assert len(run.replay) == run.rollout["episodes"]["elapsed"].item() == 1
        for _ in range(2):
            store_step(run)
            assert len(run.replay) == run.rollout["episodes"]["elapsed"].item() == 2
            assert (run.replay.latest(("next", "observation"), 1)[0] == seen).all()
