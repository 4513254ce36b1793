"""`python -m rlhive.train` in processes of its own, on a real robot for few steps."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from rlhive import command as commands
from rlhive import train
from rlhive.config import load_config
from rlhive.policy_fn import load
from rlhive.report.write import is_current
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.training import session
from tests.training.loop_runs import rows

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = [
    "TOTAL_STEPS=240",
    "train.init_random_steps=100",
    "train.batch_size=32",
    "train.evaluate_every=120",
    "train.evaluation_episodes=2",
    "train.checkpoint_every=200",
    "train.log_every=40",
    "sac_network.hidden_sizes=(32,)",
    "replay.capacity=5000",
]
IN_PROCESS = "train.num_workers=0"  # starts sooner; the results are the same
PARTS = ("params", "env_state", "train_state")


def command(*args, options=()) -> list[str]:
    return [sys.executable, *options, "-m", "rlhive.train", *map(str, args)]


def arguments(run_dir, *bindings, gin_file="sac_gaussian.gin") -> list[str]:
    return [
        f"--gin_file={gin_file}",
        f"--run_dir={run_dir}",
        *(f"--gin_bindings={binding}" for binding in (*SMALL, *bindings)),
    ]


@pytest.fixture
def all_threads(monkeypatch):
    """As in a process that nobody told how many threads to take."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("bindings", "draws"), [([], False), (["ENV_NAME='FrankaReachRandom_v2d-v0'"], True)]
)
def test_updates_leave_cores_to_workers_that_draw_alone(all_threads, bindings, draws):
    log = session.share_cores(load_config(["sac_cnn.gin"] if draws else ["sac_gaussian.gin"], bindings))
    workers = min(1, all_threads - 1)  # of one environment
    threads = max(1, all_threads - workers) if draws else all_threads
    assert torch.get_num_threads() == threads
    assert log.startswith(f"{all_threads} core(s): environments step in ")
    assert log.endswith(f"updates on {threads} thread(s)")


def test_cores_are_left_to_as_many_workers_as_draw(all_threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    bindings = ["ENV_NAME='FrankaReachRandom_v2d-v0'", f"SEEDS={tuple(range(16))}"]
    log = session.share_cores(load_config(["sac_cnn.gin"], bindings))
    assert log == "16 core(s): environments step in 4 worker(s), updates on 12 thread(s)"


def test_a_gl_backend_that_nobody_knows_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(ValueError, match="MUJOCO_GL must be egl, osmesa or glfw, or not set, got 'nonsense'"):
        train.check_flags(["sac_gaussian.gin"], None, False)
    monkeypatch.setenv("MUJOCO_GL", "off")
    train.check_flags(["sac_gaussian.gin"], None, False)


def test_a_run_without_its_config_is_told_which_copy_there_is(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").symlink_to("100")
    for copy in ("operative_config.gin", "checkpoints/config.gin"):
        (tmp_path / copy).touch()
        with pytest.raises(ValueError, match=rf"has no config\.gin: copy its {copy} to that name$"):
            train.check_flags([], str(tmp_path), True)


def test_a_run_directory_that_is_not_utf8_is_refused_at_once():
    with pytest.raises(ValueError, match=r"--run_dir=r\udcff: its name is not UTF-8 here .*: choose another"):
        train.check_flags(["sac_gaussian.gin"], "r\udcff", False)


def test_the_log_says_where_updates_run():
    config = attrs.evolve(load_config(["sac_gaussian.gin"]), device="cuda")
    assert session.share_cores(config).endswith(", updates on cuda")


def run(*args, code=0, **settings) -> str:
    """Runs the command to its end; its stderr."""
    done = subprocess.run(
        command(*args), env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False, **settings
    )
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture
def train_here():
    """`train_here(run_dir, *bindings, gin_file=…)`: what the command does, without paying for its imports again."""

    def run_here(run_dir, *bindings, gin_file="sac_gaussian.gin") -> None:
        directory = None if run_dir is None else str(run_dir)
        assert train.run([gin_file], [*SMALL, IN_PROCESS, *bindings], directory, resume=False) == 0

    return run_here


def replay(run_dir) -> dict[str, torch.Tensor]:
    """The transitions on disk, `[T, S, E, ...]`."""
    (path,) = (Path(run_dir) / "replay").glob("*.safetensors")
    return {name: tensor for name, tensor in load_file(path).items() if not name.startswith("priorities")}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The directory of a finished run of seed 1, to be read only."""
    run_dir = tmp_path_factory.mktemp("train") / "run"
    stderr = run(*arguments(run_dir))
    assert f"done; see {run_dir / 'report.html'}" in stderr
    assert "240/240 steps (100%)" in stderr
    return run_dir


def test_the_run_directory_is_complete(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.gin", "operative_config.gin", "spec.json", "metrics.csv", "curves.png", "checkpoints",
        "replay", "tensorboard", "usage.json", "report.html", "evaluations.npz", ".lock",
    }  # fmt: skip
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {
        "200", "240", "latest", "config.gin",
    }  # fmt: skip
    assert os.readlink(finished / "checkpoints" / "latest") == "240"
    for step in ("200", "240"):
        files = {path.name for path in (finished / "checkpoints" / step).iterdir()}
        assert files == {f"{part}.safetensors" for part in PARTS}
    assert list((finished / "tensorboard").glob("events.*"))
    assert imread(finished / "curves.png").ndim == 3


def test_the_metrics_come_when_they_are_due(finished):
    found = rows(finished)
    assert [int(row["step"]) for row in found if row["eval/return"]] == [120, 240]
    assert [int(row["step"]) for row in found if row["loss/actor"]] == [120, 160, 200, 240]
    assert {row["eval/length"] for row in found} == {"", "50.0"}
    assert {row["seed"] for row in found} == {"1"}


def test_the_configuration_saved_gives_the_run_again(finished):
    assert (finished / "checkpoints" / "config.gin").read_text() == (finished / "config.gin").read_text()
    again = load_config([finished / "config.gin"])
    assert again == load_config(["sac_gaussian.gin"], SMALL)
    text = (finished / "operative_config.gin").read_text()
    # What was given, and the defaults.
    assert "adam.learning_rate = 0.001" in text and "adam.b1 = 0.9" in text


def test_the_checkpoint_counts_what_was_done(finished):
    checkpoint = load_checkpoint(finished, [1])
    state = checkpoint.state[0]
    assert checkpoint.step == 240
    assert state["step"].item() == state["opt_state", "count"].item() == 140
    assert state["env_state", "observation", "count"].item() == 240
    assert checkpoint.spec.env.name == "FrankaReachRandom-v0"
    transitions = replay(finished)
    assert transitions["observation"].shape == (240, 1, 1, 21)
    ends = transitions["next.done"].flatten().nonzero().flatten().tolist()
    assert ends == [49, 99, 149, 199]
    assert not transitions["next.terminated"].any()  # a time limit keeps the bootstrap
    policy = load(finished)
    action = policy(transitions["observation"][0, 0, 0])
    assert action.shape == (9,) and bool((action.abs() <= 1).all())


def test_the_same_seed_gives_the_same_bits_whatever_the_workers(finished, tmp_path, train_here):
    train_here(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(finished)
    for part in PARTS:
        ours, theirs = (
            load_file(d / "checkpoints/latest" / f"{part}.safetensors") for d in (tmp_path / "run", finished)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    ours, theirs = replay(tmp_path / "run"), replay(finished)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def group_exists(number: int) -> bool:
    """Whether a process of the process group is left."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def interrupt_after(run_dir, step, *args) -> subprocess.CompletedProcess:
    """Presses Ctrl-C, which reaches the workers as well, once the metrics have a row of that step."""
    process = subprocess.Popen(
        command(*args), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not (
            (run_dir / "metrics.csv").exists() and any(int(row["step"]) >= step for row in rows(run_dir))
        ):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    while group_exists(process.pid):  # until the last worker is gone
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return subprocess.CompletedProcess(process.args, process.returncode, None, stderr)


def test_ctrl_c_saves_and_resuming_goes_on(tmp_path, capsys):
    run_dir = tmp_path / "run"
    stopped = interrupt_after(run_dir, 160, *arguments(run_dir, "TOTAL_STEPS=100000", "train.compile=False"))
    assert stopped.returncode == 130
    assert f"stopped and saved; continue with --run_dir={run_dir} --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    before, kept = load_checkpoint(run_dir, [1]), rows(run_dir)
    step = before.step
    assert 160 <= step < 100_000

    usage = json.loads((run_dir / "usage.json").read_text())
    (run_dir / "usage.json").write_text(json.dumps(usage | {"updates_compiled": 1}))
    assert train.run([], [f"TOTAL_STEPS={step + 100}", IN_PROCESS], str(run_dir), resume=True) == 0
    said = "so far updates were compiled; from here on they are not compiled, so the run rounds differently\n"
    assert said in capsys.readouterr().err
    assert json.loads((run_dir / "usage.json").read_text())["updates_compiled"] == 0
    after = load_checkpoint(run_dir, [1])
    assert after.step == step + 100
    assert after.spec == before.spec  # the same run
    for name, count in (
        ("step", 100),
        (("opt_state", "count"), 100),
        (("env_state", "observation", "count"), 100),
    ):
        assert (after.state[name] - before.state[name]).tolist() == [count]
    assert len(replay(run_dir)["observation"]) == step + 100
    for name, generators in after.generators.items():
        assert torch.equal(generators[0], before.generators[name][0]) == (name == "init"), name
    assert rows(run_dir)[: len(kept)] == kept  # then come the rows of the steps after, each once
    steps = [int(row["step"]) for row in rows(run_dir) if row["loss/actor"]]
    assert steps == sorted(set(steps)) and steps[-1] > step


def test_several_seeds_are_saved_like_runs_of_one(finished, tmp_path, train_here):
    train_here(tmp_path, "NUM_SEEDS=2", "TOTAL_STEPS=120", gin_file="sac_ou.gin")
    latest, alone = tmp_path / "checkpoints" / "latest", finished / "checkpoints" / "latest"
    assert {path.name for path in latest.iterdir()} == {"seed_1", "seed_2"}
    for seed in (1, 2):
        for part in PARTS:
            ours, theirs = (load_file(d / f"{part}.safetensors") for d in (latest / f"seed_{seed}", alone))
            ours.pop("rollout/explore/process", None)  # of the other exploration
            assert {name: t.shape for name, t in ours.items()} == {
                name: t.shape for name, t in theirs.items()
            }
    both, one = replay(tmp_path), replay(finished)
    for name, tensor in both.items():  # until it learns, seed 1 does what it does alone
        assert torch.equal(tensor[:100, :1], one[name][:100]), name
    observation = one["observation"][0, 0, 0]
    actions = [load(tmp_path, seed=seed)(observation) for seed in (1, 2)]
    assert torch.equal(actions[0], load(latest / "seed_1")(observation))
    assert not torch.equal(*actions)
    assert {row["seed"] for row in rows(tmp_path)} == {"1", "2"}


def test_prioritized_replay_of_three_steps_mapped_into_memory(tmp_path, train_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scratch = tmp_path / "scratch"
    bindings = ("replay.prioritized=True", "replay.n_step=3", f"replay.scratch_dir='{scratch}'")
    train_here(None, "TOTAL_STEPS=120", *bindings, gin_file="sac_egreedy.gin")
    (run_dir,) = (tmp_path / "runs").iterdir()  # a directory of its own, where none is named
    assert run_dir.name.startswith("FrankaReachRandom-v0-sac-")
    size = sum(path.stat().st_size for path in scratch.rglob("*.memmap"))
    transition = 4 * (2 * 21 + 9 + 1) + 2  # bytes: float32 but for two flags
    assert size == 120 * transition  # though replay.capacity is larger
    assert len(replay(run_dir)["observation"]) == 120
    (path,) = (run_dir / "replay").glob("*.safetensors")
    leaves = load_file(path)["priorities.leaves"]
    assert leaves.shape == (120, 1, 1)
    assert leaves.unique().numel() > 20  # most transitions were drawn, and each has its own TD error
    assert load_checkpoint(run_dir, [1]).state["step"].item() == 20


def test_a_run_that_diverges_stops_in_one_line_and_keeps_its_checkpoints(tmp_path, train_here, capsys):
    bindings = ("train.checkpoint_every=60", "sac_loss.reward_scale=1e39")
    assert commands._exit_code("rlhive.train", lambda: train_here(tmp_path, *bindings)) == 1
    text = capsys.readouterr().err
    assert "rlhive.train: no seed is left: seed 1 at step 100 (not finite); their last good states" in text
    assert "Traceback" not in text
    assert load_checkpoint(tmp_path, [1]).step == 100


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "a run", symlinks=True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("usage.json", "{}", r"usage\.json: is damaged: .* got '{}'; remove it to continue without the time"),
        ("usage.json", "{", r"usage\.json: is damaged"),
        ("spec.json", "{", r"spec\.json: is not JSON"),
        ("metrics.csv", "", r"metrics\.csv: is no table of metrics .*: mend or remove it"),
        ("metrics.csv", "step,seed,wall_time\nabc,1,2.0\n", r"metrics\.csv: is no table of metrics"),
    ],
)
def test_damaged_records_are_refused_before_a_run_goes_on(copy, name, text, words):
    (copy / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        train.run([], ["TOTAL_STEPS=300"], str(copy), resume=True)
    assert load_checkpoint(copy, [1]).step == 240


def test_a_run_beyond_its_end_is_left_as_it_is(copy):
    before = (copy / "config.gin").read_text()
    with pytest.raises(ValueError, match="is already at step 240, beyond TOTAL_STEPS=100"):
        train.run([], ["TOTAL_STEPS=100"], str(copy), resume=True)
    assert (copy / "config.gin").read_text() == before


def test_two_processes_cannot_train_in_one_directory(copy):
    with train.alone_in(copy):
        text = run(f"--run_dir={copy}", "--resume", "--gin.TOTAL_STEPS=300", code=1)
    assert f"another process is training in {copy}: wait for it, or choose another --run_dir" in text
    assert load_checkpoint(copy, [1]).step == 240


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left on device", "replay"), "No space left on device: 'replay'"),
        (RuntimeError("why"), "why"),
        (MemoryError(), "out of memory"),
        (
            ImportError("ft2font.so: failed to map segment from shared object"),
            r"out of address space \(ulimit -v\): ft2font.so",
        ),
    ],
)
def test_what_ends_a_run_in_its_midst_says_how_it_goes_on(tmp_path, failure, said):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "latest").symlink_to("100")
    remedy = f"{said}.*; its latest checkpoint is kept: fix the cause, then --resume continues from there"
    with pytest.raises(RuntimeError, match=remedy), session.advising_to_resume(tmp_path / "run"):
        raise failure
    with pytest.raises(type(failure)) as caught, session.advising_to_resume(tmp_path):
        raise failure
    assert caught.value is failure  # there is no checkpoint


def test_a_finished_run_is_done_again_with_a_command_that_can_be_copied(copy, capsys):
    assert json.loads((copy / "usage.json").read_text())["updates_compiled"] == 0
    edited = json.dumps({**json.loads((copy / "usage.json").read_text()), "updates_compiled": 1})
    (copy / "usage.json").write_text(edited)
    (copy / "report.html").write_text("of rlhive.report")
    assert train.run([], [], str(copy), resume=True) == 0
    said = capsys.readouterr().err
    assert f"python -m rlhive.evaluate '--run_dir={copy}'" in said
    assert "updates are not compiled: the run has fewer than 10000 updates\n" in said
    assert "rounds differently" not in said
    assert f"nothing was left to train; see {copy / 'report.html'}, or evaluate it" in said
    assert (copy / "report.html").read_text() == "of rlhive.report"
    (copy / "evaluations.npz").unlink()
    assert train.run([], [], str(copy), resume=True) == 0
    assert "nothing was left to train" in capsys.readouterr().err
    assert (copy / "report.html").read_text() == "of rlhive.report"
    assert (copy / "evaluations.npz").exists()
    # As of a run that was killed before its report was written.
    os.utime(copy / "metrics.csv", ns=(2**62, 2**62))
    assert not is_current(copy)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--gin_fil=sac.gin"], "gin_fil"),
        (["--gin_file=sac_gausian.gin"], "no gin file 'sac_gausian.gin': did you mean sac_gaussian.gin"),
        (["--gin_file=sac.gin", "extra"], "unknown argument 'extra': did you mean --gin_file=extra?"),
        ([], "no configuration is given: name one, such as --gin_file=sac_gaussian.gin"),
        (["--resume"], "--resume needs --run_dir"),
        (["--resume", "--run_dir=new"], "new has no checkpoint to continue from"),
        (["--gin_file=sac.gin", "--run_dir=old"], "--run_dir=old holds a run: add --resume"),
        (["--gin_file=sac.gin", "--run_dir=begun"], "--run_dir=begun holds a run: it has no checkpoint yet"),
        (
            ["--gin_file=sac.gin", "--run_dir=killed"],
            "--run_dir=killed holds a run: it has no checkpoint yet",
        ),
        (["--resume", "--run_dir=killed"], "killed has no checkpoint to continue from"),
        (["--resume", "--run_dir=copied"], "copied/checkpoints/latest is a copy, not a link"),
        (
            ["--gin_file=sac.gin", "--run_dir=begun/config.gin"],
            "--run_dir=begun/config.gin is not a directory",
        ),
        (["--gin_file=sac.gin", "--run_dir="], "--run_dir= is not a directory"),
    ],
)
def test_wrong_flags_are_refused_at_once(tmp_path, args, words):
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    (tmp_path / "old" / "checkpoints" / "latest").symlink_to("100")
    for name in ("begun", "killed"):
        (tmp_path / name).mkdir()
    (tmp_path / "killed" / "metrics.csv").touch()
    (tmp_path / "copied" / "checkpoints" / "latest").mkdir(parents=True)
    for name in ("old", "begun", "copied"):
        (tmp_path / name / "config.gin").touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = run(*args, code=2, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert words in text
    assert text.startswith("rlhive.train: ") and text.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"old", "begun", "killed", "copied"}
    # Of the processor, since other processes may keep it from this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_a_wrong_binding_is_refused_before_any_environment(tmp_path):
    args = ["--gin_file=sac.gin", f"--run_dir={tmp_path / 'run'}", "--gin.ENV_NAME='FrankaReachRandm-v0'"]
    done = subprocess.run(
        command(*args, options=["-X", "importtime"]),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert done.returncode == 2
    assert "torch" in imported and "robohive" not in imported
    (message,) = (line for line in lines if not line.startswith("import time:"))
    assert message.startswith("rlhive.train: ") and "did you mean FrankaReachRandom-v0" in message
    assert not (tmp_path / "run").exists()


def test_a_working_directory_that_cannot_be_written_to_asks_for_a_run_dir(tmp_path, monkeypatch, train_here):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(OSError, match=r"Not a directory: .*: give a --run_dir that can be written to"):
        train_here(None)


def test_a_run_in_a_directory_that_cannot_be_written_to_is_refused_before_it_goes_on(copy, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(copy))

    monkeypatch.setattr(session, "go_on", lambda *_: pytest.fail("went on"))
    for needed in ("tempfile.TemporaryFile", "rlhive.core.files.lock_file"):
        with (
            monkeypatch.context() as patch,
            pytest.raises(OSError, match=r"denied: .*: give a --run_dir that can be"),
        ):
            patch.setattr(needed, refuse)
            train.run([], [], str(copy), resume=True)
