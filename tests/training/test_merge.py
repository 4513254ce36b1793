"""Seeds added to a finished run: afterwards it is the run that had them from the start."""

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhive.config import config_text, load_config
from rlhive.config.record import record_of
from rlhive.core.errors import LoadError
from rlhive.policy_fn import load
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.runs.run_files import ADDED, MERGED, settings_path
from rlhive.train import run as run_command
from rlhive.training import loop, session
from rlhive.training.merge import recover, seeds_to_add
from rlhive.training.run import open_run
from rlhive.training.session import add_seeds, go_on
from tests.envs.toy import ConstantReward, ReachPoint
from tests.training.loop_runs import of_toy

SMALL = [
    *("train.num_workers=0", "train.loggers=()", "sac_network.hidden_sizes=(16,)", "train.batch_size=8"),
    *(
        "train.init_random_steps=20",
        "TOTAL_STEPS=60",
        "train.evaluate_every=20",
        "train.evaluation_episodes=2",
    ),
    *("train.log_every=10", "train.checkpoint_every=20", "replay.capacity=1000"),
]


def configure(seeds, *bindings, env=ReachPoint):
    return of_toy(load_config(["sac_gaussian.gin"], [*SMALL, f"SEEDS={seeds}", *bindings]), env)


def train(run_dir, seeds, *bindings, resume=False, env=ReachPoint):
    run_dir.mkdir(exist_ok=True)
    with (
        attrs.validators.disabled(),
        open_run(configure(seeds, *bindings, env=env), run_dir, resume=resume) as run,
    ):
        assert loop.train(run)
    (run_dir / "config.gin").write_text(config_text())
    return run_dir


def add(run_dir, seeds, *bindings, env=ReachPoint):
    with attrs.validators.disabled():
        return add_seeds(configure(seeds, *bindings, env=env), run_dir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of the seeds 5 and 6, to be read only."""
    return train(tmp_path_factory.mktemp("runs") / "whole", (5, 6))


@pytest.fixture(scope="module")
def of_one_seed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "grown", (5,))


@pytest.fixture
def grown(of_one_seed, tmp_path):
    """A finished run of the seed 5 alone, to be added to."""
    return shutil.copytree(of_one_seed, tmp_path / "grown", symlinks=True)


def table(run_dir, name) -> list[dict[str, str]]:
    with (run_dir / name).open() as file:
        rows = [{**row, "wall_time": ""} for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: (int(row["step"]), row.get("seed", ""), str(row)))


def assert_same_run(one, other, seeds):
    for step in (20, 40, 60):
        ours, theirs = (load_checkpoint(run_dir, seeds, step=step) for run_dir in (one, other))
        assert bool((ours.state == theirs.state).all())
    for name in ("metrics.csv", "metrics_over_seeds.csv"):
        assert table(one, name) == table(other, name)
    ours, theirs = (load_file(run_dir / "replay" / "60.safetensors") for run_dir in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("bindings", [(), ("replay.prioritized=True",)])
def test_added_seeds_are_as_if_they_had_been_there(tmp_path, bindings):
    whole = train(tmp_path / "whole", (6, 5, 9), *bindings)
    grown = train(tmp_path / "grown", (5,), *bindings)
    assert add(grown, (6, 5, 9), *bindings)
    assert_same_run(grown, whole, (6, 5, 9))
    assert not (grown / ADDED).exists()
    usage = json.loads((grown / "usage.json").read_text())
    assert usage["seconds"] > 0 and usage["environment_steps"] == 60
    assert "SEEDS = (6, 5, 9)" in (grown / "operative_config.gin").read_text()
    for run_dir in (whole, grown):
        train(run_dir, (6, 5, 9), *bindings, "TOTAL_STEPS=80", resume=True)
    ours, theirs = (load_checkpoint(run_dir, (6, 5, 9)) for run_dir in (whole, grown))
    assert ours.step == theirs.step == 80 and bool((ours.state == theirs.state).all())


def test_a_plain_resume_adds_nothing(grown):
    assert seeds_to_add(grown, configure((5,))) == ()


def test_a_merge_that_was_cut_short_goes_on(whole, grown, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rlhive.training.merge.merge_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(grown, (5, 6))
    assert (grown / ADDED).exists()
    assert add(grown, (5, 6))
    assert_same_run(grown, whole, (5, 6))


@pytest.mark.parametrize("kept", ["checkpoints/config.gin", "of-before.gin"])
def test_seeds_that_were_edited_into_config_gin_are_added(whole, grown, monkeypatch, capsys, kept):
    config = configure((5, 6))
    shutil.copy(grown / "config.gin", grown / kept)
    (grown / "config.gin").write_text(record_of(config).text)
    (grown / "report.html").touch()
    monkeypatch.setattr("rlhive.config.load_config", lambda *_: config)
    for name in ("write_arrays", "write_report"):  # which know the environments of RoboHive alone
        monkeypatch.setattr(f"rlhive.report.write.{name}", lambda directory: directory / "report.html")
    with attrs.validators.disabled():
        assert run_command([], [], str(grown), resume=True) == 0
    assert_same_run(grown, whole, (5, 6))
    assert f"done; see {grown / 'report.html'}" in capsys.readouterr().err


def killed_at_the_removal(patch, name):
    """Lets the next removal of a directory of this name be the moment in which the process is killed."""
    rmtree = shutil.rmtree

    def killed(path, **settings):
        if Path(path).name == name and Path(path).exists():
            raise KeyboardInterrupt
        rmtree(path, **settings)

    patch.setattr(shutil, "rmtree", killed)


def test_a_merge_that_was_killed_while_it_replaced_a_checkpoint_goes_on(whole, grown, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at_the_removal(patch, ".tmp-before-40")
        add(grown, (5, 6))
    with pytest.raises(
        LoadError, match=r"the seeds \[6\] are being added: continue with --gin.SEEDS='\(5, 6\)'"
    ):
        seeds_to_add(grown, configure((5,)))
    recover(grown)
    assert add(grown, (5, 6))
    assert_same_run(grown, whole, (5, 6))


def test_what_was_merged_is_not_taken_for_seeds_that_are_being_added(whole, grown, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at_the_removal(patch, MERGED)
        add(grown, (5, 6))
    (grown / MERGED / "metrics.csv").unlink()  # half of it is gone
    assert seeds_to_add(grown, configure((5, 6))) == ()
    recover(grown)
    assert not (grown / MERGED).exists()
    assert_same_run(grown, whole, (5, 6))


def test_added_seeds_that_were_killed_in_their_last_evaluation_go_on(tmp_path, monkeypatch):
    late = "train.evaluate_every=50"
    whole, grown = train(tmp_path / "whole", (5, 6), late), train(tmp_path / "grown", (5,), late)
    evaluate = loop._evaluate

    def interrupt(run, progress):
        if run.step == 60:
            raise KeyboardInterrupt
        evaluate(run, progress)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_evaluate", interrupt)
        add(grown, (5, 6), late)
    assert add(grown, (5, 6), late)
    assert_same_run(grown, whole, (5, 6))


SUCCESSFUL = ("train.target_success=0.9",)  # every episode of `ConstantReward` is


@pytest.mark.parametrize(
    "bindings", [("train.evaluate_every=20",), ("train.evaluate_every=50", "train.checkpoint_every=30")]
)
def test_seeds_that_meet_their_target_can_be_added_and_be_added_to(tmp_path, bindings):
    bindings = (*SUCCESSFUL, *bindings)
    whole = train(tmp_path / "whole", (5, 7), *bindings, env=ConstantReward)
    grown = train(tmp_path / "grown", (5,), *bindings, env=ConstantReward)
    assert add(grown, (5, 7), *bindings, env=ConstantReward)
    ours, theirs = (load_checkpoint(run_dir, (5, 7)) for run_dir in (grown, whole))
    assert ours.step == theirs.step and bool((ours.state == theirs.state).all())
    assert ours.progress == theirs.progress and all(own["reason"] == "target met" for own in ours.progress)
    assert table(grown, "metrics.csv") == table(whole, "metrics.csv")
    assert load(grown, seed=7)(torch.zeros(1)).shape == (1,)


def test_an_added_seed_that_stops_early_is_in_the_last_checkpoint(whole, grown, monkeypatch):
    played = loop.run_episodes

    def succeed(envs, act, seeds):
        outcome = played(envs, act, seeds)
        return outcome._replace(success=np.ones_like(outcome.success))

    with monkeypatch.context() as patch:
        patch.setattr("rlhive.training.loop.run_episodes", succeed)
        patch.setattr("rlhive.training.session.check_settings", lambda *_: None)
        assert add(grown, (5, 7), *SUCCESSFUL)
    found = load_checkpoint(grown, (5, 7))
    assert found.step == 60 and found.progress[1] == {"stopped_at": 20, "reason": "target met"}
    assert bool((found.state[0] == load_checkpoint(whole, (5, 6)).state[0]).all())
    longer = train(grown, (5, 7), "TOTAL_STEPS=80", resume=True)
    assert load_checkpoint(longer, (5, 7)).progress[1]["stopped_at"] == 20


def test_other_settings_than_the_run_has_are_refused(grown):
    with pytest.raises(
        LoadError, match=r"but GAMMA, adam\.learning_rate differ: GAMMA is 0\.95 there, 0\.5 here"
    ):
        add(grown, (5, 6), "adam.learning_rate=0.1", "GAMMA=0.5")
    assert add(grown, (5, 6, 7), "train.loggers=('csv', 'tensorboard')")
    # What seeds have in common is of all of them, or of none.
    scalars = {path.stem for path in (grown / "csv" / "scalars" / "eval" / "return").iterdir()}
    assert scalars == {"seed_6", "seed_7"}
    events = EventAccumulator(str(grown / "tensorboard"))
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("eval/return/")}
    assert tags == {"eval/return/seed_6", "eval/return/seed_7"}


@pytest.mark.parametrize(
    ("seeds", "bindings", "words"),
    [
        ((6,), (), r"has the seeds \[5\] too"),
        ((5, 6), ("TOTAL_STEPS=100",), r"is at step 60, not at the end of 100 steps"),
    ],
)
def test_what_cannot_be_added_is_refused(grown, seeds, bindings, words):
    with pytest.raises(LoadError, match=words):
        seeds_to_add(grown, configure(seeds, *bindings))


@pytest.mark.parametrize("reasons", [("target met",), ("target met", "not finite")])
def test_a_run_all_of_whose_seeds_stopped_is_at_its_end(grown, monkeypatch, capsys, reasons):
    progress = {5 + k: {"stopped_at": 20, "reason": reason} for k, reason in enumerate(reasons)}
    for module in ("resume", "session"):
        monkeypatch.setattr(f"rlhive.training.{module}.progress_of", lambda run_dir: progress)
    assert seeds_to_add(grown, configure((5, 6), "TOTAL_STEPS=100")) == (6,)
    with attrs.validators.disabled():
        assert go_on(configure((5,), "TOTAL_STEPS=100"), grown)
    assert "all of its seeds have stopped; nothing is left to train" in capsys.readouterr().err


def test_a_run_without_a_finite_seed_cannot_continue(tmp_path):
    with pytest.raises(FloatingPointError):
        train(tmp_path / "run", (5,), "sac_loss.reward_scale=1e39")
    words = r"none of its seeds is left to train: seed 5 at step 20 \(not finite\)"
    with attrs.validators.disabled(), pytest.raises(LoadError, match=words):
        go_on(configure((5,)), tmp_path / "run")


@pytest.mark.parametrize("part", ["params", "train_state"])
def test_nothing_is_added_to_a_run_whose_checkpoint_is_damaged(grown, monkeypatch, part):
    monkeypatch.setattr(
        "rlhive.training.session.train", lambda *_, **__: pytest.fail("trained before it was read")
    )
    path = grown / "checkpoints" / "latest" / f"{part}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoadError, match=rf"{part}\.safetensors: "):
        add(grown, (5, 6))
    assert not (grown / ADDED).exists()


def test_a_run_that_goes_on_with_other_settings_says_so_and_keeps_those_it_had(tmp_path, capsys):
    run_dir = train(tmp_path / "run", (5,))
    first = (run_dir / "config.gin").read_text()
    other = ("TOTAL_STEPS=80", "adam.learning_rate=0.1", "train.exploration=@none")
    with attrs.validators.disabled():
        assert go_on(configure((5,), *other), run_dir)
        said = capsys.readouterr().err
        assert go_on(configure((5,), *other, "TOTAL_STEPS=90"), run_dir)
    assert (
        "continues from step 60 with other settings, those it had are in config-60.gin: TOTAL_STEPS 60 -> 80, "
        "adam.learning_rate 0.001 -> 0.1, train.exploration @gaussian -> @none\n"
    ) in said
    assert (run_dir / "config-60.gin").read_text() == first
    assert "TOTAL_STEPS = 80" in (run_dir / "config-80.gin").read_text()
    words = r"had other settings until step 60: adam\.learning_rate, train\.exploration differ"
    with pytest.raises(LoadError, match=words):
        add(run_dir, (5, 6), *other, "TOTAL_STEPS=90")


def test_settings_edited_in_config_gin_are_other_ones_than_the_run_had(tmp_path, capsys, monkeypatch):
    run_dir, brief = tmp_path / "run", ("TOTAL_STEPS=4", "train.updates_per_step=0")
    run_dir.mkdir()
    edited = (*brief, "adam.learning_rate=0.1")
    with attrs.validators.disabled():
        assert session.train(configure((5,), *brief), run_dir, resume=False)
        first = (run_dir / "config.gin").read_text()
        (run_dir / "config.gin").write_text(record_of(configure((5,), *edited)).text)
        with pytest.raises(LoadError, match=r"adam\.learning_rate is 0\.001 there, 0\.1 here"):
            add(run_dir, (5, 6), *edited)
        for total in (6, 7):  # as if the first one had been killed before it learned anything
            with monkeypatch.context() as patch:
                patch.setattr(loop, "train", lambda _: True)
                assert go_on(configure((5,), *edited, f"TOTAL_STEPS={total}"), run_dir)
    said = "those it had are in config-4.gin: TOTAL_STEPS 4 -> 7, adam.learning_rate 0.001 -> 0.1\n"
    assert said in capsys.readouterr().err
    assert (run_dir / "config-4.gin").read_text() == first


def test_settings_that_nothing_was_trained_with_are_not_those_of_the_run(tmp_path):
    run_dir, brief = tmp_path / "run", ("TOTAL_STEPS=4", "train.updates_per_step=0")
    run_dir.mkdir()
    with attrs.validators.disabled():
        assert session.train(configure((5,), *brief), run_dir, resume=False)
        first = (run_dir / "config.gin").read_text()
        assert go_on(configure((5,), *brief, "adam.learning_rate=0.1"), run_dir)  # no step is left
    assert settings_path(run_dir).read_text() == first
    with pytest.raises(LoadError, match=r"adam\.learning_rate is 0\.001 there, 0\.1 here"):
        add(run_dir, (5, 6), *brief, "adam.learning_rate=0.1")
    assert add(run_dir, (5, 6), *brief)
    assert settings_path(run_dir).read_text() == record_of(configure((5, 6), *brief)).text


def test_what_killed_processes_left_at_the_top_of_a_run_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".metrics.0f.{os.uname().nodename}.{ended.pid}.tmp.csv").touch()
    (tmp_path / "metrics.csv").touch()
    recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
