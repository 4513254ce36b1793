"""Reports of runs that are really on disk, by the command and by the functions that training calls."""

import base64
import html.parser
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import save_file

from rlhive.metrics import Recorder
from rlhive.policy_fn.actor import actor_critic
from rlhive.report import page as report_page
from rlhive.report import write
from rlhive.report.__main__ import check_input
from rlhive.report.read import read_run, read_runs
from rlhive.report.text import seconds_text
from rlhive.runs.gin_text import settings
from rlhive.runs.run_files import NOT_FINITE, TARGET_MET
from rlhive.runs.run_spec import new_run_spec
from rlhive.training import loop

STEPS = (1000, 2000, 3000, 4000)
SUCCESS = {1: (0.0, 0.5, 0.9, 1.0), 2: (0.0, 0.0, 0.5, 0.6), 7: (0.1, 0.6, 0.8, 0.85)}
CONFIG = "ENV_NAME = 'FrankaReachRandom-v0'\nSEED = {seed}\n\ntrain.evaluation_episodes = 20\n"


class Page(html.parser.HTMLParser):
    """Reads a page: its text, its tables as lists of rows, its pictures; every tag has to be closed."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.tables, self.images = [], set(), "", [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        """The rows of the only table whose first row begins so."""
        [found] = [table for table in self.tables if tuple(table[0][: len(head)]) == head]
        return found[1:]


@pytest.fixture
def write_run(tmp_path, franka_spec):
    """`write_run("name", {seed: success rates}, …)`: a run directory; the return is 200 times the success rate."""

    def write(name="run", success=SUCCESS, steps=STEPS, config=CONFIG, env=franka_spec):
        directory = tmp_path / name
        directory.mkdir(parents=True)
        spec = new_run_spec("sac", env, actor_critic(env, hidden_sizes=(8,)))
        (directory / "spec.json").write_text(spec.to_json())
        (directory / "config.gin").write_text(config.format(seed=min(success)))
        with Recorder(directory, loggers=()) as recorder:
            for index, step in enumerate(steps):
                for seed, rates in success.items():
                    recorder.write(step - 500, {seed: {"loss/actor": 0.5}})
                    if index < len(rates):
                        rate = rates[index]
                        recorder.write(step, {seed: {"eval/return": 200 * rate, "eval/success": rate}})
        return directory

    return write


@pytest.fixture
def no_picture(monkeypatch):
    """Leaves rendering out, which has tests of its own and takes seconds."""
    monkeypatch.setattr(write, "render", lambda environment: "left out here")


def read(path):
    text = path.read_text()
    assert "http:" not in text and "https:" not in text and "<script" not in text
    return Page(text)


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.report", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        timeout=120,
    )


def test_page_of_one_run_has_the_numbers_of_every_seed(write_run, no_picture):
    directory = write_run()
    path = write.write_report(directory)
    assert path == directory / "report.html"
    page = read(path)
    rows = page.table("seed", "last step")
    assert [row[:-1] for row in rows] == [
        ["1", "4,000", "100%", "200.0", "2,000", "3,000"],
        ["2", "4,000", "60%", "120.0", "3,000", "not reached"],
        ["7", "4,000", "85%", "170.0", "2,000", "not reached"],
    ]
    summary = dict(page.table("", "run"))
    assert summary["seeds"] == "1, 2, 7" and summary["at step"] == "4,000"
    assert summary["success rate, IQM"].startswith("81.7% [60%")
    assert summary["mean return, median"] == "170.0"
    assert summary["steps to 50% success, median"] == "2,000"
    assert summary["steps to 90% success, median"] == "not reached"
    assert summary["seeds that reached 90%"] == "1 of 3"
    assert "95 % stratified bootstrap interval (2,000 resamples) over 3 seeds" in page.text
    assert "evaluation seed 0" in page.text and "each evaluation: run: 20" in page.text
    assert "ENV_NAME = 'FrankaReachRandom-v0'" in page.text
    assert "There is no picture of it: `python -m rlhive.report" in page.text
    assert page.table("process") == [["run", "1, 2, 7", *["not recorded"] * 4]]


def test_pictures_are_in_the_page_and_say_what_they_show(write_run, no_picture):
    page = read(write.write_report(write_run()))
    assert len(page.images) == 2
    for picture in page.images:
        kind, data = re.fullmatch(r"data:(.*);base64,(.*)", picture["src"]).groups()
        assert kind == "image/svg+xml"
        svg = base64.b64decode(data).decode()
        assert "<svg" in svg and not re.search(r'(href|src)="(?!#)', svg)
        assert "IQM" in picture["alt"]
    assert not page.tags & {"script", "link", "iframe"}


def test_the_same_run_gives_the_same_page(write_run, no_picture):
    directory = write_run()
    first = write.write_report(directory).read_bytes()
    assert write.write_report(directory).read_bytes() == first


def test_one_seed_has_no_interval(write_run, no_picture):
    page = read(write.write_report(write_run(success={3: SUCCESS[1]})))
    assert dict(page.table("", "run"))["success rate, IQM"] == "100% (no interval)"
    assert "Only seed 3, so there is no interval over seeds" in page.text
    assert not re.search(r"\[\d", page.text)


def test_usage_is_reported_where_it_is_recorded(write_run, no_picture):
    directory = write_run()
    usage = {"seconds": 500.0, "environment_steps": 12_000, "peak_memory_bytes": 3 * 2**30}
    (directory / "usage.json").write_text(json.dumps(usage))
    expected = ["run", "1, 2, 7", "8.3 min", "12,000", "24.0", "3,072 MiB"]
    assert read(write.write_report(directory)).table("process") == [expected]
    (directory / "usage.json").write_text(json.dumps(usage | {"gpu_peak_memory_bytes": 2**30}))
    assert read(write.write_report(directory)).table("process") == [[*expected, "1,024 MiB"]]
    for damaged in ("[1]", '{"seconds": "a"}', '{"seconds": 3, "peak_memory_bytes": null}'):
        (directory / "usage.json").write_text(damaged)
        with pytest.raises(
            ValueError,
            match=r'usage.json: is damaged: expected numbers by name, including "seconds", got .*; remove it',
        ):
            write.write_report(directory)


def test_steps_are_of_what_the_usage_says_whatever_the_algorithm_is_called(write_run, no_picture):
    directory = write_run()
    spec = json.loads((directory / "spec.json").read_text()) | {"algorithm": "mine"}
    (directory / "spec.json").write_text(json.dumps(spec))
    assert read_run(directory).step_name == "steps"
    assert "environment steps" not in read(write.write_report(directory)).text
    (directory / "usage.json").write_text(json.dumps({"seconds": 50.0, "gradient_updates": 7}))
    page = read(write.write_report(directory))
    assert page.table("process", "seeds", "time", "gradient updates")[0][3] == "7"


def test_steps_are_of_what_the_first_process_that_says_so_says(write_run):
    write_run("apart/a", {1: SUCCESS[1]})
    recording = write_run("apart/b", {2: SUCCESS[2]})
    (recording / "usage.json").write_text(json.dumps({"seconds": 50.0, "gradient_updates": 7}))
    assert read_run(recording.parent).step_name == "gradient updates"


def test_solo_runs_in_a_directory_are_the_seeds_of_one_run(write_run, no_picture):
    together = read(write.write_report(write_run("together")))
    for seed, rates in SUCCESS.items():
        alone = write_run(f"apart/seed_{seed}", {seed: rates})
    apart = read(write.write_report(alone.parent))
    assert (alone.parent / "report.html").is_file()
    assert [row[:-1] for row in apart.table("seed")] == [row[:-1] for row in together.table("seed")]
    assert [row[1] for row in apart.table("")] == [row[1] for row in together.table("")]
    assert [row[:2] for row in apart.table("process")] == [
        ["apart/seed_1", "1"],
        ["apart/seed_2", "2"],
        ["apart/seed_7", "7"],
    ]


def test_solo_runs_that_do_not_belong_together_are_refused(write_run):
    first = write_run("twice/a", {1: SUCCESS[1]})
    second = write_run("twice/b", {1: SUCCESS[2]})
    with pytest.raises(
        ValueError, match=r"two runs in it have seed 1; to compare the runs, give them one by one"
    ):
        read_run(first.parent)
    (second / "config.gin").write_text(CONFIG.format(seed=2) + "train.tau = 0.1\n")
    with pytest.raises(ValueError, match=r"differ in train.tau, so they are not seeds of one run"):
        read_run(first.parent)


def test_page_of_several_runs_compares_them(write_run, no_picture):
    a, b = (
        write_run("a"),
        write_run("b", {1: (0.0, 0.1, 0.2), 2: (0.0, 0.5, 0.9)}, config=CONFIG + "x.y = 1\n"),
    )
    page = read(write.write([a, b], a / "both.html"))
    assert len(page.images) == 4 + 8
    summary = {name: cells for name, *cells in page.table("", "a", "b")}
    assert summary["at step"] == ["3,000", "3,000"]  # where each seed of both was evaluated
    assert summary["success rate, median"] == ["80%", "55%"]
    assert summary["seeds that reached 50%"] == ["3 of 3", "1 of 2"]
    expected = scipy.stats.mannwhitneyu([0.9, 0.5, 0.8], [0.2, 0.9]).statistic / 6
    [[pair, success, mean_return]] = page.table("pair")
    assert pair == "a over b"
    assert success == mean_return and success.startswith(f"{expected:.0%} [")
    assert page.table("setting") == [["x.y", "-", "1"]]
    assert "a: 20; b: 20" in page.text
    for what in ("Performance profile", "Probability of improvement", "Samples to 50%", "Samples to 90%"):
        assert sum(what in picture["alt"] for picture in page.images) >= 1, what


def test_the_seeds_of_runs_are_no_settings_that_differ(write_run, no_picture):
    solo, both = CONFIG + "NUM_SEEDS = 1\n", CONFIG + "NUM_SEEDS = 3\n"
    for seed, rates in SUCCESS.items():
        write_run(f"apart/seed_{seed}", {seed: rates}, config=solo)
    together = write_run("together", config=both)
    page = read(write.write([together.parent / "apart", together], together / "both.html"))
    assert "The runs have the same settings." in page.text


def test_the_hint_of_a_report_can_be_copied(write_run):
    directory = write_run("a run")
    page = read(write.write_report(directory))
    assert f"`python -m rlhive.report '{directory}'`" in page.text


def test_runs_that_cannot_be_compared_are_refused(write_run, franka_spec):
    import attrs

    a = write_run("a")
    apart = write_run("apart", {1: (0.1, 0.2)}, steps=(1500, 2500))
    with pytest.raises(ValueError, match=r"a and .*apart: no step has an evaluation of every seed"):
        read_runs([a, apart])
    other = write_run("other", env=attrs.evolve(franka_spec, name="door-v1"))
    with pytest.raises(ValueError, match=r"a is of FrankaReachRandom-v0 and .*other of door-v1"):
        read_runs([a, other])
    slower = write_run("slower", env=attrs.evolve(franka_spec, dt=0.1))
    with pytest.raises(ValueError, match=r"of FrankaReachRandom-v0 with different dt"):
        read_runs([a, slower])


def test_runs_of_one_name_are_told_apart_by_their_paths(write_run):
    paths = [write_run("x/run"), write_run("y/run")]
    assert [run.label for run in read_runs(paths)] == [str(path) for path in paths]


def test_a_seed_without_some_evaluations_leaves_holes(write_run, no_picture):
    directory = write_run(success={1: SUCCESS[1], 2: (0.5, math.nan, 0.7), 3: ()})
    run = read_run(directory)
    assert not len(run.complete)
    page = read(write.write_report(directory))
    assert [row[:4] for row in page.table("seed")] == [
        ["1", "4,000", "100%", "200.0"],
        ["2", "3,000", "70%", "140.0"],
        ["3", "never", "-", "-"],
    ]
    assert dict(page.table("", "run"))["at step"] == "none has every seed"
    assert "Only 0 of 4 evaluated steps have every seed" in page.text


def test_a_seed_that_broke_before_its_first_row_counts_all_the_same(write_run, no_picture):
    directory = write_run()
    for seed in (1, 2, 5, 7):
        (directory / "checkpoints" / "latest" / f"seed_{seed}").mkdir(parents=True)
    found = read_run(directory)
    assert found.seeds.tolist() == [1, 2, 5, 7] and not len(found.complete)
    assert np.isnan(found.scores["return"][2]).all()
    assert found.scores["success"][[0, 1, 3]].tolist() == [list(rates) for rates in SUCCESS.values()]
    page = read(write.write_report(directory))
    [row] = [row for row in page.table("seed", "last step") if row[0] == "5"]
    assert row[1] == "never" and row[-1] == "not recorded"


def stop(folder, **progress):
    folder.mkdir(parents=True)
    metadata = {"format_version": "1", "progress": json.dumps(progress)}
    save_file({"step": np.zeros(1)}, folder / "train_state.safetensors", metadata=metadata)


def test_seeds_that_stopped_say_when_and_why(write_run, no_picture):
    directory = write_run(success={1: SUCCESS[1], 2: (0.0, 0.6), 3: (0.0,)})
    progress = {2: {"stopped_at": 2000, "reason": TARGET_MET}}
    progress |= {3: {"stopped_at": 1200, "reason": NOT_FINITE}, 1: {"metrics": {}}}
    for seed, own in progress.items():
        folder = directory / "checkpoints" / "latest" / f"seed_{seed}"
        stop(folder, **own)
    page = read(write.write_report(directory))
    assert [(row[0], *row[4:7]) for row in page.table("seed", "last step")] == [
        ("1", "2,000", "3,000", "-"),
        ("2", "2,000", "stopped before", "at step 2,000: target met"),
        ("3", "not reached", "not reached", "at step 1,200: not finite"),
    ]
    summary = dict(page.table("", "run"))
    assert summary["seeds that reached 50%"] == "2 of 3"
    assert summary["seeds that reached 90%"] == "1 of 3, 1 stopped before"
    assert summary["steps to 90% success, median"] == "stopped before"
    (folder / "train_state.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"train_state.safetensors: is not a safetensors file"):
        read_run(directory)


def test_a_seed_alone_that_stopped_says_so_too(write_run):
    directory = write_run(success={4: (0.0, 0.6)})
    stop(directory / "checkpoints" / "latest", stopped_at=2000, reason=TARGET_MET)
    assert read_run(directory).stopped == {4: (2000, TARGET_MET)}


def test_a_report_of_one_seed_needs_no_whole_parameters(write_run):
    directory = write_run(success={4: SUCCESS[1]})
    latest = directory / "checkpoints" / "latest"
    latest.mkdir(parents=True)
    assert read_run(directory).seeds.tolist() == [4]
    (latest / "params.safetensors").write_bytes(b"x")
    assert read_run(directory).seeds.tolist() == [4]


@pytest.mark.parametrize(
    "progress",
    [
        [1, 2],
        {"stopped_at": 30},
        {"stopped_at": "30", "reason": TARGET_MET},
        {"stopped_at": 30, "reason": None},
    ],
)
def test_a_damaged_header_of_a_seed_is_named(write_run, progress):
    directory = write_run(success={4: SUCCESS[1]})
    folder = directory / "checkpoints" / "latest"
    stop(folder)
    metadata = {"format_version": "1", "progress": json.dumps(progress)}
    save_file({"step": np.zeros(1)}, folder / "train_state.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"train_state.safetensors: its header has no valid 'progress'"):
        read_run(directory)


def test_a_median_that_no_stopped_seed_could_decide_was_not_reached(write_run, no_picture):
    directory = write_run(success={1: (0.0, 0.4)} | dict.fromkeys((2, 3, 4, 5), (0.0, 0.1, 0.2)))
    latest = directory / "checkpoints" / "latest"
    stop(latest / "seed_1", stopped_at=2000, reason=TARGET_MET)
    summary = dict(read(write.write_report(directory)).table("", "run"))
    assert summary["seeds that reached 50%"] == "0 of 5, 1 stopped before"
    assert summary["steps to 50% success, median"] == "not reached"


def test_seeds_without_a_shared_evaluation_are_named(write_run):
    whole, broken = write_run("whole"), write_run("broken", {1: SUCCESS[1], 2: ()})
    missing = "evaluations are missing for seed 2 of broken from step 1000 on: report"
    message = rf"whole and .*broken: no step has .*; {missing}"
    with pytest.raises(ValueError, match=message):
        read_runs([whole, broken])


def test_text_of_a_run_is_escaped(write_run, no_picture):
    directory = write_run("a<b&c", config=CONFIG + "a.b = '<script>x</script>'\n")
    page = read(write.write_report(directory))
    assert "<script>x</script>" in page.text and "a<b&c: sac, 3 seeds" in page.text


def test_arrays_are_those_of_metrics_and_need_no_pickle(write_run):
    directory = write_run(success={1: SUCCESS[1], 7: (0.5, 0.25)})
    assert write.write_arrays(directory) == directory / "evaluations.npz"
    with np.load(directory / "evaluations.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"seeds", "steps", "return", "success"}
        np.testing.assert_array_equal(arrays["seeds"], [1, 7])
        np.testing.assert_array_equal(arrays["steps"], STEPS)
        expected = np.array([SUCCESS[1], (0.5, 0.25, np.nan, np.nan)])
        np.testing.assert_array_equal(arrays["success"], expected)
        np.testing.assert_array_equal(arrays["return"], 200 * expected)
    assert not list(directory.glob(".*"))


def test_settings_are_read_with_values_of_several_lines():
    text = "# Macros:\nSEED = 1\n\na.b = \\\n    ('x',\n     'y')\nc.d = %SEED\n"
    assert settings(text) == {"SEED": "1", "a.b": "('x', 'y')", "c.d": "%SEED"}


def test_evaluation_seed_is_the_training_loops():
    assert report_page.EVALUATION_SEED == loop.EVALUATION_SEED


@pytest.mark.parametrize(
    ("value", "text"), [(3.21, "3.2 s"), (99.0, "99.0 s"), (150.0, "2.5 min"), (7200.0, "2.0 h")]
)
def test_times_are_in_the_unit_that_suits_them(value, text):
    assert seconds_text(value) == text


def test_command_writes_a_page_with_a_picture_of_the_environment(write_run):
    directory = write_run()
    done = command(directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{directory / 'report.html'}\n"
    page = read(directory / "report.html")
    if "There is no picture" in page.text:
        pytest.skip("rendering does not work here, see README.md")
    data = base64.b64decode(page.images[-1]["src"].removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG") and len(data) > 50_000


def test_report_is_complete_where_nothing_renders(write_run, tmp_path):
    out = tmp_path / "out.html"
    variables = {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}
    done = command(write_run(), f"--out={out}", **variables)
    assert done.returncode == 0, done.stderr
    page = read(out)
    assert "There is no picture of it: " in page.text and "Traceback" not in page.text
    assert len(page.table("seed")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no run is given"),
        (("fresh", "--out=x.html"), "fresh: has no evaluation yet"),
        (("--ou=x.html",), "Unknown command line flag 'ou'"),
    ],
)
def test_wrong_commands_are_refused_in_one_line(arguments, message, write_run, tmp_path, monkeypatch):
    write_run("fresh", {1: ()})
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    refused = command(*arguments, PYTHONPATH=str(Path(write.__file__).parents[2]))
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not refused.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["nowhere"], None, "nowhere: there is no such directory"),
        ([".", "../run"], None, "a run is given twice"),
        (["r\udcff"], None, "its name is not UTF-8"),
        (["."], "x.pdf", r"--out=x.pdf: must be a file ending in .html"),
        (["."], "no/x.html", r"--out=no/x.html: must be a file ending in .html in a directory that exists"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(names, out, message, write_run, monkeypatch):
    monkeypatch.chdir(write_run("run"))
    with pytest.raises(ValueError, match=message):
        check_input([Path(name) for name in names], out)


def test_a_report_that_cannot_be_written_is_refused_before_any_work(write_run, monkeypatch):
    monkeypatch.chdir(write_run("run"))
    Path("x.html").mkdir()
    for out, why in (("x.html", "it is a directory"), ("/proc/x.html", "No such file or directory")):
        with pytest.raises(ValueError, match=f"--out={out}: cannot be written: {why}; choose another --out"):
            check_input([Path()], out)


def test_directories_that_are_no_runs_are_refused(write_run, tmp_path):
    with pytest.raises(ValueError, match=r"neither it nor a directory in it has a metrics.csv"):
        write.write_report(tmp_path)
    directory = write_run()
    (directory / "spec.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run: its metrics.csv or spec.json is damaged: 'env'"):
        write.write_report(directory)
    (directory / "spec.json").unlink()
    with pytest.raises(ValueError, match=r"run: has no spec.json; give a run directory"):
        write.write_arrays(directory)
    assert not (directory / "report.html").exists()


def test_help_needs_neither_torch_nor_numpy_and_a_report_no_torch(write_run):
    run = [sys.executable, "-X", "importtime", "-m", "rlhive.report"]
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True)
    assert "--out" in shown.stdout
    imported = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert "absl.flags" in imported and not imported & {"torch", "mujoco", "numpy"}
    code = "import sys; import rlhive.report.page; print('torch' in sys.modules)"
    before = "import sys; sys.argv, sys.orig_argv = ['-m'], ['-m', 'rlhive.report']; "
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
