import json
import os
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import gin
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.stats import bootstrap_interval
from rlhive.core.tree_file import read_tree, write_tree
from rlhive.envs.robohive import RoboHive, env_spec
from rlhive.envs.vector import VectorEnv
from rlhive.evaluate import _describe_best, best_seed, check_input, evaluate, format_report, summarize_seed
from rlhive.metrics import Recorder, read_metrics
from rlhive.policy_fn import load
from rlhive.runs.run_files import EVALUATION_SEED
from rlhive.training.evaluation import evaluation_seeds, run_episodes
from rlhive.video import HEIGHT, WIDTH, Studio, check_cameras, film
from tests.training.loop_runs import rows, train


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def installed():
    """The spec of the environment as installed here."""
    return env_spec("FrankaReachRandom-v0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "rlhive.evaluate: --run_dir must be given; see --help"),
        (("--rundir=x",), "Did you mean: run_dir"),
        (("--run_dir=nowhere",), "--run_dir=nowhere: there is no such directory"),
        (("--run_dir=.", "--episodes=0"), "0 is not a positive integer"),
        (("--run_dir=.", "--seed=-1"), "-1 is not a non-negative integer"),
        (("--run_dir=.", "--deterministic", "--stochastic"), "At most one of"),
        (("--run_dir=.", "--video=film.gif"), "must be a file ending in .mp4"),
        (("--run_dir=.", "--cameras=left_cam"), "--cameras needs --video"),
        (
            ("--run_dir=.", "--video=film.mp4", "--cameras=left_cam,top_cam,left_cam"),
            "each named once; got left_cam, top_cam, left_cam",
        ),
        (("--run_dir=.", "more"), "unknown argument 'more': did you mean --run_dir=more? See --help"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_help_needs_no_torch():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rlhive.evaluate", "--help"],
        capture_output=True,
        text=True,
    )
    assert "--run_dir" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "absl.flags" in imported
    assert not imported & {"torch", "mujoco", "numpy"}


def test_missing_video_package_is_named_before_anything_runs(tmp_path, monkeypatch):
    check_input(tmp_path, tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    with pytest.raises(ValueError, match="uv sync --extra video"):
        check_input(tmp_path, tmp_path / "film.mp4")
    check_input(tmp_path, None)


def test_a_directory_is_no_video(tmp_path):
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(ValueError, match=r"must be a file ending in \.mp4"):
        check_input(tmp_path, tmp_path / "film.mp4")


@pytest.fixture
def failing_ffmpeg(tmp_path, monkeypatch):
    """An ffmpeg that says what it is, but fails when it is to write."""
    path, real = tmp_path / "ffmpeg", imageio_ffmpeg.get_ffmpeg_exe()
    path.write_text(f'#!/bin/sh\n[ "$1" = -y ] && exit 1\nexec {real} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


def test_an_ffmpeg_that_does_not_run_is_named_before_anything_runs(tmp_path, monkeypatch):
    for broken in ("/nonexistent", str(tmp_path), "/bin/false"):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", broken)
        with pytest.raises(ValueError, match=f"needs ffmpeg, .*{broken}.*: unset IMAGEIO_FFMPEG_EXE") as no:
            check_input(tmp_path, tmp_path / "film.mp4")
        assert "\n" not in str(no.value)


def test_a_film_that_ffmpeg_does_not_write_is_one_line_and_no_file(failing_ffmpeg, installed, tmp_path):
    path = tmp_path / "film.mp4"
    action = torch.zeros(1, installed.action_dim)
    with pytest.raises(RuntimeError, match=r"film\.mp4: ffmpeg cannot write the video") as no:
        film(lambda seen, rest: (action, None), installed, 0, path)
    assert "\n" not in str(no.value) and not path.exists()


def test_a_film_that_fails_costs_a_run_nothing(failing_ffmpeg, tmp_path, capsys):
    run = train(
        "FrankaReachRandom-v0",
        tmp_path / "run",
        "TOTAL_STEPS=20",
        "train.evaluate_every=20",
        "train.video_every=1",
    )
    gin.clear_config()
    assert "step 20: no video: " in capsys.readouterr().err
    assert run.step == 20 and [row for row in rows(run.run_dir) if row["eval/return"]]


def test_command_prints_json_alone_and_the_same_in_every_process(make_run, installed):
    run_dir = make_run(env=installed).run_dir
    result = command(f"--run_dir={run_dir}", "--episodes=3", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == evaluate(run_dir, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cameras", "shape"), [("", (480, 640)), ("left_cam,top_cam,right_cam", (960, 1280))]
)
def test_video_shows_an_episode_in_real_time(make_run, installed, tmp_path, cameras, shape):
    run_dir = make_run(env=installed).run_dir
    film = tmp_path / "film.mp4"
    result = command(f"--run_dir={run_dir}", "--episodes=1", f"--video={film}", f"--cameras={cameras}")
    assert result.returncode == 0, result.stderr
    assert str(film) in result.stdout

    import imageio.v3 as imageio

    pictures = imageio.imread(film)
    assert pictures.shape == (installed.max_episode_steps, *shape, 3)
    assert pictures[0, :480, :640].std() > 10.0  # something is to be seen
    assert np.abs(pictures[0].astype(float) - pictures[-1]).max() > 50.0  # and it moves
    meta = imageio.immeta(film)
    assert meta["fps"] == pytest.approx(1.0 / installed.dt)
    assert meta["duration"] == pytest.approx(installed.max_episode_steps * installed.dt, abs=installed.dt)


def test_pictures_of_a_video_lie_side_by_side():
    cameras = ("left_cam", "top_cam", "right_cam")
    env = RoboHive("FrankaReachRandom-v0", seed=1, pixels=PixelSpec(cameras, HEIGHT, WIDTH, "fast"))
    env.reset()
    picture, (left, top, right) = Studio(env, cameras).shoot(), env.render()
    assert np.array_equal(picture[:HEIGHT], np.concatenate([left, top], axis=1))
    assert np.array_equal(picture[HEIGHT:, :WIDTH], right) and not picture[HEIGHT:, WIDTH:].any()
    assert Studio(env, ()).shoot().shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="has no camera 'front'; it has left_cam"):
        check_cameras("FrankaReachRandom-v0", ["front"])


def test_every_seed_plays_its_own_policy_on_the_same_episodes(make_run, installed):
    run = make_run(seeds=(1, 10), env=installed)
    report = evaluate(run.run_dir, 3, 5)
    assert (report["environment"], report["step"], report["deterministic"]) == (
        "FrankaReachRandom-v0",
        100,
        True,
    )
    for entry, seed in zip(report["seeds"], run.seeds, strict=True):
        policy = load(run.run_dir, seed=seed)
        with VectorEnv(installed.name, seeds=[77], num_workers=0) as envs:
            episodes = run_episodes(envs, policy.act, evaluation_seeds(5, 3))
        returns = episodes.returns[0]
        assert entry == {
            "seed": seed,
            "success": episodes.success.mean(),
            "return_mean": returns.mean(),
            "return_median": np.median(returns),
            "return_interval_95": list(bootstrap_interval(returns, np.random.default_rng(5))),
        }
    assert report["seeds"][0]["return_mean"] != report["seeds"][1]["return_mean"]
    for same in (evaluate(run.run_dir, 3, 5, step=100), evaluate(run.run_dir / "checkpoints" / "100", 3, 5)):
        assert {**same, "run_dir": ""} == {**report, "run_dir": ""}
    with pytest.raises(ValueError, match=r"checkpoints/50: there is no such checkpoint; complete .*: 100"):
        evaluate(run.run_dir, 3, 5, step=50)
    with pytest.raises(ValueError, match="is not the directory of a run, so step=100 cannot be chosen"):
        evaluate(run.run_dir / "checkpoints" / "100", 3, 5, step=100)
    assert report["return_mean"] == pytest.approx(
        np.mean([entry["return_mean"] for entry in report["seeds"]])
    )
    lines = format_report(report).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "seed 1",
        "seed 10",
        "all seeds",
        "best seed",
    ]


def test_a_seed_is_summed_up_by_its_mean_median_and_interval():
    returns, success = np.array([1.0, 2.0, 3.0, 10.0]), np.array([True, False, False, False])
    assert summarize_seed(returns, success, 0) == {
        "success": 0.25,
        "return_mean": 4.0,
        "return_median": 2.5,
        "return_interval_95": list(bootstrap_interval(returns, np.random.default_rng(0))),
    }
    alone = {"success": 1.0, "return_mean": 5.0, "return_median": 5.0, "return_interval_95": None}
    assert summarize_seed(np.array([5.0]), np.array([True]), 0) == alone
    with pytest.raises(ValueError, match="finite numbers"):
        summarize_seed(np.array([1.0, np.nan]), success[:2], 0)


def test_best_seed_is_chosen_by_the_runs_own_evaluations(make_run, installed):
    run_dir = make_run(seeds=(1, 10), env=installed).run_dir
    assert "has no evaluations to choose it by" in format_report(evaluate(run_dir, 1, 1))
    with Recorder(run_dir, loggers=()) as recorder:
        for step, (first, second) in {
            50: ((1.0, 200.0), (0.0, 0.0)),
            100: ((0.5, 90.0), (0.5, 95.0)),
        }.items():
            for seed, (success, total) in ((1, first), (10, second)):
                recorder.write(step, {seed: {"eval/success": success, "eval/return": total}})
    report = evaluate(run_dir, 1, 1)  # 10: as successful in the last evaluation, with a higher return
    assert report["best_seed"] == 10
    figures = f"return mean {report['seeds'][1]['return_mean']:.1f} on these episodes"
    assert (
        format_report(report)
        .splitlines()[-1]
        .startswith("  best seed: 10, chosen by the run's own last evalua")
    )
    assert format_report(report).endswith(figures)


def test_a_damaged_table_is_refused_before_any_episode(make_run, franka_spec):
    run_dir = make_run(seeds=(1, 10), env=franka_spec).run_dir  # its environment is refused when it is played
    (run_dir / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.csv: is no table of metrics \(it is empty\)"):
        evaluate(run_dir, 1, 1)


def test_one_episode_has_no_interval(make_run, installed):
    report = evaluate(make_run(env=installed).run_dir, 1, 1)
    assert report["seeds"][0]["return_interval_95"] is None
    assert "interval" not in format_report(report) and "return mean " in format_report(report)


def break_policy(run, seed):
    """Makes the actions of a saved seed not finite, by weights that are."""
    path = run.run_dir / "checkpoints" / "100" / f"seed_{seed}" / "params.safetensors"
    tree, header = read_tree(path)
    large = tree.apply(lambda leaf: 3e38 * leaf.sign())  # of both signs: infinity minus infinity
    write_tree(path, tree.update({"actor": large["actor"]}), header)


def test_a_seed_whose_actions_are_not_finite_is_named_and_the_others_are_evaluated(make_run, installed):
    run = make_run(seeds=(1, 10, 11), env=installed)
    whole = evaluate(run.run_dir, 3, 1)
    break_policy(run, 10)
    with pytest.raises(ValueError, match=r"seed_10.*: the action is not finite"):
        load(run.run_dir, seed=10)
    report = evaluate(run.run_dir, 3, 1)
    assert report["seeds"] == [whole["seeds"][0], whole["seeds"][2]] and report["not_finite"] == [10]
    assert report["return_mean"] == pytest.approx(np.mean([of["return_mean"] for of in report["seeds"]]))
    assert "  seed 10: its policy gives actions that are not finite, so it has no figures" in format_report(
        report
    )
    json.dumps(report, allow_nan=False)
    for seed in (1, 11):
        break_policy(run, seed)
    with pytest.raises(ValueError, match="the actions of all seeds are not finite: 1, 10, 11"):
        evaluate(run.run_dir, 3, 1)


def test_best_seed_is_not_named_on_the_episodes_it_is_chosen_by(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        for seed, success in ((1, 0.5), (2, 0.9), (3, float("nan"))):
            recorder.write(100, {seed: {"eval/success": success, "eval/return": 1.0}})
        recorder.write(150, {1: {"loss/actor": 1.0}})
    metrics = read_metrics(tmp_path)
    assert best_seed(metrics, [1, 2, 3], 7, 150) == 2
    assert best_seed(metrics, [1, 2, 3], 7, 99) is None
    assert best_seed(metrics, [1, 3], 7, 150) == 1
    assert best_seed(metrics, [1, 2, 3], EVALUATION_SEED, 150) is None
    assert best_seed(metrics, [2], 7, 150) is None
    assert best_seed({}, [1, 2], 7, 150) is None
    nobody = {"seeds": [{"seed": 1}, {"seed": 2}], "best_seed": None, "seed": 0}
    assert "none is named with --seed=0" in _describe_best(nobody)


def test_seed_decides_episodes_and_noise(make_run, installed):
    run_dir = make_run(env=installed).run_dir
    stochastic = evaluate(run_dir, 2, 0, stochastic=True)
    assert stochastic == evaluate(run_dir, 2, 0, stochastic=True)
    means = {
        stochastic["return_mean"],
        evaluate(run_dir, 2, 0)["return_mean"],
        evaluate(run_dir, 2, 1)["return_mean"],
    }
    assert len(means) == 3


def test_environment_other_than_the_one_trained_on_is_refused(make_run, franka_spec):
    run_dir = make_run(env=franka_spec).run_dir  # its actuators have other names
    with pytest.raises(ValueError, match=r"does not fit the policy: action actuator0: missing"):
        evaluate(run_dir, 1, 0)


def test_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is neither a checkpoint nor the directory of a run that has one"):
        evaluate(tmp_path, 1, 0)


@pytest.mark.slow
def test_rendering_that_does_not_work_is_one_line_and_leaves_no_file(make_run, installed, tmp_path):
    run_dir = make_run(env=installed).run_dir
    film = tmp_path / "film.mp4"
    nowhere = {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}
    result = command(f"--run_dir={run_dir}", f"--video={film}", **nowhere)
    assert result.returncode == 1
    assert "rlhive.doctor" in result.stderr.splitlines()[-1]
    assert not result.stdout
    assert list(tmp_path.glob("*film*")) == []
