"""The training loop in this process, on tiny environments: counts, streams, what is due."""

from types import SimpleNamespace

import pytest
import torch

from rlhive.progress import Progress
from rlhive.training import loop, online
from rlhive.training.run import open_run
from tests.envs.toy import MatchSign, ReachPoint
from tests.training.loop_runs import configure, rows, stored, train


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


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 3), (60.0, 1)])
def test_the_curves_are_drawn_now_and_then_and_in_the_end(tmp_path, monkeypatch, seconds, times):
    drawn = []
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_PICTURES", seconds)
    monkeypatch.setattr(loop, "plot_curves", lambda run_dir, steps: drawn.append(rows(run_dir)[-1]["step"]))
    train(ReachPoint, tmp_path, "train.evaluate_every=20")
    assert len(drawn) == times and drawn[-1] == "60"


def test_one_update_per_step_is_the_default(plain):
    assert plain.state["step"].tolist() == [40]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_normaliser_has_taken_in_every_step_once(plain, tmp_path, num_envs):
    run = plain if num_envs == 1 else train(ReachPoint, tmp_path, f"NUM_ENVS={num_envs}")
    assert len(run.replay._rows["observation"]) == 60 // num_envs  # and no room for more
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


@pytest.mark.parametrize(
    ("total", "every", "num_envs", "filmed"),
    [(70, 3, 1, [60]), (50, 3, 1, [50]), (50, 2, 1, [40]), (50, None, 1, []), (42, 1, 2, [20, 40, 42])],
)
def test_every_so_many_evaluations_are_filmed_the_last_one_included(total, every, num_envs, filmed):
    settings = SimpleNamespace(video_every=every, evaluate_every=20, num_envs=num_envs)
    steps = [*range(20, total, 20), total]
    runs = [SimpleNamespace(step=step, config=settings) for step in steps]
    assert [run.step for run in runs if loop._is_filmed(run)] == filmed


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
        run.store_step()  # there is none yet
        for _ in range(2):
            online.step(run, Progress(2))
        seen = run.unstored["next", "observation"].clone()
        assert len(run.replay) == run.rollout["episodes"]["elapsed"].item() == 1
        for _ in range(2):
            run.store_step()
            assert len(run.replay) == run.rollout["episodes"]["elapsed"].item() == 2
            assert (run.replay.latest(("next", "observation"), 1)[0] == seen).all()
