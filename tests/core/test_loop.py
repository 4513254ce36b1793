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
from rlhive.core import loop
from rlhive.core.checkpoint import load_checkpoint
from rlhive.core.episode_tracker import EpisodeTracker
from rlhive.core.tree_file import LoadError
from rlhive.envs.toy import ConstantReward, MatchSign, ReachPoint

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
    with loop.open_run(configure(env, *bindings), run_dir, resume=resume) as run:
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
    with loop.open_run(configure(ReachPoint), tmp_path, resume=True) as run:
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
        loop.open_run(configure(ReachPoint, binding), plain.run_dir, resume=True),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_run_of_another_environment_cannot_be_resumed(plain):
    with (
        pytest.raises(LoadError, match=r"another env: name is 'ReachPoint' there, 'ConstantReward' in"),
        loop.open_run(configure(ConstantReward), plain.run_dir, resume=True),
    ):
        pass


def test_an_action_that_is_not_finite_stops_the_run_and_names_the_seed(tmp_path):
    train(ReachPoint, tmp_path, "NUM_SEEDS=2", "SEED=5", "TOTAL_STEPS=30")
    kept = load_checkpoint(tmp_path, [5, 6])
    with loop.open_run(configure(ReachPoint, "NUM_SEEDS=2", "SEED=5"), tmp_path, resume=True) as run:
        for leaf in run.state["params", "actor"].values(True, True):
            leaf[1] = math.nan  # of the second seed
        with pytest.raises(
            FloatingPointError, match="seed 6: the action is not finite at step 30; the check"
        ):
            loop.train(run)
    after = load_checkpoint(tmp_path, [5, 6])
    assert after.step == 30
    assert bool((after.state == kept.state).all())


@pytest.mark.parametrize(
    ("bindings", "what"), [(("train.log_every=1",), "loss"), (("replay.prioritized=True",), "TD error")]
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, bindings, what):
    bindings = ("sac_loss.reward_scale=1e39", "train.checkpoint_every=20", *bindings)
    with pytest.raises(
        FloatingPointError, match=f"seed 1: the {what} is not finite at step 2[01]; the check"
    ):
        train(ReachPoint, tmp_path, *bindings)
    assert load_checkpoint(tmp_path, [1]).step == 20


def step(reward, solved, done) -> TensorDict:
    """One step of environments `[S, E]` from nested lists."""
    values = {"reward": torch.tensor(reward), "solved": torch.tensor(solved), "done": torch.tensor(done)}
    return TensorDict(
        {name: value.unsqueeze(-1) for name, value in values.items()}, torch.tensor(reward).shape
    )


def test_episodes_are_counted_by_hand():
    tracker = EpisodeTracker((2, 1))
    for _ in range(5):
        assert not tracker.add(step([[1.0], [2.0]], [[True], [True]], [[False], [False]]))
    assert tracker.summary(0) == {}
    assert tracker.add(step([[1.0], [2.0]], [[True], [False]], [[True], [True]]))
    # Six solved steps are a success, five are not.
    assert tracker.summary(0) == {"train/return": 6.0, "train/success": 1.0}
    assert tracker.summary(1) == {"train/return": 12.0, "train/success": 0.0}
    assert tracker.latest() == {"episode_return": 9.0, "success_rate": 0.5}
    assert tracker.add(step([[-3.0], [7.0]], [[False], [False]], [[True], [False]]))
    assert tracker.summary(0) == {"train/return": -3.0, "train/success": 0.0}
    assert tracker.summary(1) == {"train/return": 12.0, "train/success": 0.0}


def test_a_seed_is_summed_up_once_all_its_environments_ended_an_episode():
    tracker = EpisodeTracker((1, 2))
    tracker.add(step([[1.0, 5.0]], [[False, False]], [[True, False]]))
    assert tracker.summary(0) == {}
    assert tracker.latest() == {"episode_return": 1.0, "success_rate": 0.0}
    tracker.add(step([[2.0, 5.0]], [[False, False]], [[False, True]]))
    assert tracker.summary(0) == {"train/return": 5.5, "train/success": 0.0}


def test_a_toy_with_one_right_answer_is_learned(tmp_path):
    bindings = (
        "TOTAL_STEPS=300",
        "train.batch_size=32",
        "train.evaluation_episodes=20",
        "adam.learning_rate=1e-2",
    )
    train(MatchSign, tmp_path, *bindings)
    assert float(rows(tmp_path)[-1]["eval/return"]) > 0.9  # 1 is the best, 0 what chance gives
