import contextlib
import csv
import io
import math
import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest

from rlhive.curves import plot_curves
from rlhive.metrics import (
    Recorder,
    check_loggers,
    drop_evaluation,
    has_evaluation,
    merge_metrics,
    read_metrics,
)
from rlhive.progress import Progress
from tests.helpers import files_up_to


def lines(run_dir):
    return (run_dir / "metrics.csv").read_text().splitlines()


def without_time(run_dir):
    return [line.split(",")[:2] + line.split(",")[3:] for line in lines(run_dir)]


def test_rows_and_growing_columns(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(100, {1: {"eval/return": 1.5, "eval/success": True}})
        recorder.write(200, {1: {"loss/actor": -2}})
        recorder.write(200, {2: {"loss/actor": math.nan, "eval/return": math.inf}})
    assert without_time(tmp_path) == [
        ["step", "seed", "eval/return", "eval/success", "loss/actor"],
        ["100", "1", "1.5", "1.0", ""],
        ["200", "1", "", "", "-2.0"],
        ["200", "2", "inf", "", "nan"],
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.csv"]


def test_rows_over_seeds_without_a_common_metric_have_a_header_too(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(1, {1: {"loss/actor": math.nan}, 2: {"loss/actor": 1.0}})
        recorder.write(2, {1: {"loss/actor": 3.0}, 2: {"loss/actor": 1.0}})
    first, second = csv.DictReader((tmp_path / "metrics_over_seeds.csv").open())
    assert (first["step"], first["num_seeds"], first["loss/actor/iqm"]) == ("1", "2", "")
    assert (second["step"], second["num_seeds"], second["loss/actor/iqm"]) == ("2", "2", "2.0")


def test_values_read_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=60) * 10.0 ** np.arange(-30, 30)
    with Recorder(tmp_path, loggers=()) as recorder:
        for step, value in enumerate(values):
            recorder.write(step, {0: {"train/return": value, "loss/critic": np.float32(value)}})
    metrics = read_metrics(tmp_path)
    assert np.array_equal(metrics["train/return"], values)
    assert np.array_equal(metrics["loss/critic"], values.astype(np.float32).astype(np.float64))
    assert np.array_equal(metrics["step"], np.arange(60))
    assert (np.diff(metrics["wall_time"]) >= 0).all()


def test_resuming_drops_later_rows_and_goes_on(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        for step in (100, 200, 300):
            recorder.write(step, {1: {"eval/return": step}})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("400,1")  # cut short by a crash
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("\n200,1,0.", "\n200,1,1000."))
    with Recorder(tmp_path, loggers=(), resume_step=200) as recorder:
        recorder.write(250, {1: {"eval/return": 250, "loss/actor": 1.0}})
    metrics = read_metrics(tmp_path)
    assert metrics["step"].tolist() == [100, 200, 250]
    assert metrics["eval/return"].tolist() == [100, 200, 250]
    assert metrics["wall_time"][-1] >= 1000  # goes on from the last row kept


def test_a_table_with_rows_of_other_lengths_is_damaged_but_for_a_last_one_cut_short(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        for step in (1, 2):
            recorder.write(step, {3: {"eval/return": 0.5}})
    assert has_evaluation(tmp_path, 2, [3]) and not has_evaluation(tmp_path, 2, [3, 4])
    table = tmp_path / "metrics.csv"
    whole = table.read_text()
    table.write_text(whole[: whole.rindex(",")])
    assert read_metrics(tmp_path)["step"].tolist() == [1] and not has_evaluation(tmp_path, 2, [3])
    table.write_text(whole[:-2])  # in the middle of its last number
    assert read_metrics(tmp_path)["step"].tolist() == [1] and not has_evaluation(tmp_path, 2, [3])
    for damaged in (whole.replace("\n1,", "\n1,1,"), whole.rstrip() + ",\n"):
        table.write_text(damaged)
        with pytest.raises(ValueError, match=r"rows have other fields than the 4 of its header"):
            read_metrics(tmp_path)


def test_the_rows_of_all_seeds_come_in_one_write(tmp_path, monkeypatch):
    rows, opened = {seed: {"eval/return": 1.0} for seed in range(50)}, []

    def open_and_note(path, *arguments, **settings):
        opened.append(path.name)
        return open(path, *arguments, **settings)

    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(100, rows)
        monkeypatch.setattr(type(tmp_path), "open", open_and_note)
        recorder.write(200, rows)
    assert opened == ["metrics.csv", "metrics_over_seeds.csv"]
    assert len(lines(tmp_path)) == 101


def test_what_a_full_disk_refuses_leaves_no_part_of_a_row(tmp_path):
    rows, path = {seed: {"eval/return": 1.0} for seed in range(50)}, tmp_path / "metrics.csv"
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(100, rows)
        before = path.read_bytes()
        with files_up_to(len(before) + 100), pytest.raises(OSError, match=r"too large: .*metrics\.csv"):
            recorder.write(200, rows)
        assert path.read_bytes() == before
        recorder.write(200, rows)
    assert read_metrics(tmp_path)["step"].tolist() == [100] * 50 + [200] * 50


def write_evaluations(run_dir, seeds=(1, 2)):
    with Recorder(run_dir, loggers=()) as recorder:
        for step in (100, 200):
            recorder.write(step, {seed: {"loss/actor": float(step)} for seed in seeds})
            recorder.write(step, {seed: {"eval/return": float(step + seed)} for seed in seeds})


def over_seeds(run_dir):
    rows = csv.DictReader((run_dir / "metrics_over_seeds.csv").open())
    return [{**row, "wall_time": ""} for row in rows]


def test_what_was_not_summed_up_over_seeds_is_when_the_run_goes_on(tmp_path):
    write_evaluations(tmp_path)
    path, whole = tmp_path / "metrics_over_seeds.csv", over_seeds(tmp_path)
    assert len(whole) == 4
    for lost in (slice(0, 4), slice(0, 3), slice(0, 0)):  # the last row, two of them, the file
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[lost])) if lines[lost] else path.unlink()
        Recorder(tmp_path, loggers=(), resume_step=200).close()
        assert over_seeds(tmp_path) == whole
    path.with_name("metrics.csv").unlink()
    Recorder(tmp_path, loggers=(), resume_step=200).close()
    with Recorder(tmp_path, loggers=(), resume_step=200) as recorder:
        recorder.write(300, {1: {"loss/actor": 1.0}, 2: {"loss/actor": 2.0}})
    Recorder(tmp_path, loggers=(), resume_step=300).close()
    assert over_seeds(tmp_path)[:4] == whole and len(over_seeds(tmp_path)) == 5


def test_a_seed_that_a_step_has_twice_counts_once_with_its_last_row(tmp_path):
    write_evaluations(tmp_path)
    whole, path = over_seeds(tmp_path), tmp_path / "metrics.csv"
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows, *rows]))
    Recorder(tmp_path, loggers=(), resume_step=200).close()
    assert over_seeds(tmp_path) == whole


def test_an_evaluation_that_is_written_again_is_there_once(tmp_path):
    write_evaluations(tmp_path, (1, 2, 3))
    whole = read_metrics(tmp_path), over_seeds(tmp_path)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])
    with Recorder(tmp_path, loggers=(), resume_step=200) as recorder:
        drop_evaluation(tmp_path, 200, (1, 2, 3))
        assert over_seeds(tmp_path) == whole[1][:3]
        recorder.write(200, {seed: {"eval/return": 200.0 + seed} for seed in (1, 2, 3)})
    for name in ("step", "seed", "eval/return", "loss/actor"):
        np.testing.assert_array_equal(read_metrics(tmp_path)[name], whole[0][name])
    assert over_seeds(tmp_path) == whole[1]
    drop_evaluation(tmp_path, 200, (1, 3))  # 2 has stopped
    assert read_metrics(tmp_path)["seed"][-4:].tolist() == [1, 2, 3, 2]


def test_a_new_run_refuses_an_old_table(tmp_path):
    Recorder(tmp_path, loggers=()).close()
    with pytest.raises(ValueError, match="exists: resume the run, or choose another run directory"):
        Recorder(tmp_path, loggers=())


def test_resuming_without_a_table_starts_one(tmp_path):
    with Recorder(tmp_path, loggers=(), resume_step=500) as recorder:
        recorder.write(600, {0: {"train/return": 1.0}})
    assert read_metrics(tmp_path)["step"].tolist() == [600]


def test_tensorboard_and_torchrl_csv(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = ("tensorboard", "csv")
    with Recorder(tmp_path, loggers=loggers) as recorder:
        for step in (10, 20, 30):
            recorder.write(step, {3: {"eval/return": step / 2}})
    with Recorder(tmp_path, loggers=loggers, resume_step=20) as recorder:
        recorder.write(25, {3: {"eval/return": 7.0}})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("eval/return/seed_3")]
    assert found == [(10, 5.0), (20, 10.0), (25, 7.0)]
    scalars = tmp_path / "csv" / "scalars" / "eval" / "return" / "seed_3.csv"
    assert scalars.read_text().splitlines() == ["10,5.0", "20,10.0", "25,7.0"]


def test_unknown_loggers_are_refused():
    with pytest.raises(ValueError, match="no logger 'tensorbord': did you mean tensorboard"):
        check_loggers(["tensorbord"], None)


def test_wandb_needs_its_project_and_its_package(monkeypatch):
    with pytest.raises(ValueError, match="needs its project"):
        check_loggers(["wandb"], None)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ValueError, match="needs the package wandb"):
        check_loggers(["wandb"], {"project": "robots"})


@pytest.mark.slow  # wandb takes most of a minute to start and finish
def test_wandb_logs_offline(tmp_path):
    pytest.importorskip("wandb")
    settings = {"project": "robots", "mode": "offline"}
    with Recorder(tmp_path, loggers=("wandb",), wandb=settings) as recorder:
        recorder.write(10, {0: {"eval/return": 1.0}})
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def write_curves(run_dir, seeds):
    with Recorder(run_dir, loggers=()) as recorder:
        for step in range(0, 1000, 100):
            for seed in seeds:
                recorder.write(step, {seed: {"eval/return": step * (1 + seed), "eval/success": step / 1000}})
                recorder.write(step, {seed: {"loss/critic": math.exp(-step / 300), "loss/actor": -step}})


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3, 4, 5)])
def test_curves(tmp_path, seeds):
    from matplotlib.image import imread

    write_curves(tmp_path, seeds)
    assert plot_curves(tmp_path) == tmp_path / "curves.png"
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[1] > 3 * picture.shape[0]  # four curves side by side
    assert picture[..., :3].std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_curves_of_seeds_that_diverged_or_lag(tmp_path):
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(0, {1: {"loss/critic": 1.0}})
        recorder.write(0, {2: {"loss/critic": math.nan}})
        recorder.write(1, {1: {"loss/critic": math.inf}})
    assert plot_curves(tmp_path) is not None


def test_nothing_to_draw_yet(tmp_path):
    Recorder(tmp_path, loggers=()).close()
    assert plot_curves(tmp_path) is None
    assert not (tmp_path / "curves.png").exists()


def test_progress_writes_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(20_000, initial_step=1000, interval=0.0, stream=stream)
    progress.update(4000, returns=[123.44])
    progress.update(5000, success_rate=0.5)
    progress.close()
    first, second = stream.getvalue().splitlines()  # no third: nothing is new when it closes
    assert first.startswith("4000/20000 steps (20%), ") and "step/s, return 123.4, " in first
    assert "return 123.4, success 50%, " in second and second.endswith(" left")
    assert "\r" not in stream.getvalue()


def test_progress_lines_keep_their_distance():
    stream = io.StringIO()
    progress = Progress(1000, interval=60.0, stream=stream)
    for step in range(1, 1001):
        progress.update(step)
    assert stream.getvalue() == ""
    progress.close()
    assert stream.getvalue().startswith("1000/1000 steps (100%)")


def test_progress_shows_one_return_when_a_single_seed_is_left():
    stream = io.StringIO()
    progress = Progress(100, interval=0.0, stream=stream)
    progress.update(1, [8.0, 4.0, 6.0], 0.25)
    progress.update(2, [5.0])
    several, alone = stream.getvalue().splitlines()
    assert "return IQM 6.0 (4.0 to 8.0), success 25%" in several
    assert "return 5.0, success 25%" in alone and "IQM" not in alone


def test_progress_leaves_out_returns_that_are_not_finite():
    stream = io.StringIO()
    progress = Progress(100, interval=0.0, stream=stream)
    progress.update(1, [math.nan, 4.0, math.inf])
    progress.update(2, [math.nan])
    first, second = stream.getvalue().splitlines()
    assert "return 4.0, " in first and "return 4.0, " in second


def _read_terminal(terminal: int) -> str:
    """Everything that was written; one read may return a part, and Linux ends a terminal with EIO."""
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    return shown.decode()


def test_progress_draws_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with os.fdopen(theirs, "w") as terminal:
        progress = Progress(100, initial_step=50, stream=terminal)
        progress.update(75, [8.0, 4.0, 6.0], 0.25)
        progress.close()
    shown = _read_terminal(ours)
    assert "\r" in shown and "75/100" in shown and "return IQM=6.0 (4.0 to 8.0), success=25%" in shown


def test_merged_metrics_are_those_of_a_joint_run(tmp_path):
    def write(name, seeds):
        (tmp_path / name).mkdir()
        with Recorder(tmp_path / name, loggers=()) as recorder:
            for step in (100, 200):
                ended = {1: {"train/return": 5.0 * step}, 4: {"train/return": 7.0}}  # the others play on
                recorder.write(
                    step, {seed: {"loss/actor": step / seed} | ended.get(seed, {}) for seed in seeds}
                )
                recorder.write(step, {seed: {"eval/return": float(step + seed)} for seed in seeds})

    for name, seeds in (("joint", (1, 2, 3, 4)), ("run", (1, 2)), ("added", (3, 4))):
        write(name, seeds)
    merge_metrics(tmp_path / "run", tmp_path / "added", (1, 2, 3, 4))
    for file in ("metrics.csv", "metrics_over_seeds.csv"):
        joint, merged = (list(csv.DictReader((tmp_path / name / file).open())) for name in ("joint", "run"))
        assert merged and [row | {"wall_time": ""} for row in merged] == [
            row | {"wall_time": ""} for row in joint
        ]


def test_an_empty_table_is_said_to_be_empty(tmp_path):
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(
        ValueError, match=r"metrics.csv: is no table of metrics \(it is empty\): mend or remove"
    ):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("step,seed\n1,1\n", "it has no column wall_time"),
        ("step,seed,wall_time\n1.0,1,2.0\n", "column step: invalid literal .* '1.0'"),
        ("step,seed,wall_time\n1,one,2.0\n", "column seed: invalid literal .* 'one'"),
        ("step,seed,wall_time\n1,1,\n", "column wall_time: could not convert"),
    ],
)
def test_a_table_whose_index_is_damaged_is_named(tmp_path, text, why):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"metrics.csv: is no table of metrics \({why}"):
        Recorder(tmp_path, loggers=(), resume_step=5)


def test_heavy_packages_are_imported_late():
    code = (
        "import sys, rlhive.metrics;"
        "assert not {'matplotlib', 'tensorboard', 'torchrl', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_are_utf8_in_every_locale(tmp_path):
    code = (
        "import sys, rlhive.metrics as metrics\n"
        "from pathlib import Path\n"
        "with metrics.Recorder(Path(sys.argv[1]), loggers=()) as recorder:\n"
        "    recorder.write(1, {1: {'loss/\\xfc': 0.5}})\n"
        "    recorder.write(2, {1: {'loss/\\xfc': 0.5, 'loss/\\xe4': 1.0}})\n"
        "print(len(metrics.read_metrics(Path(sys.argv[1]))))"
    )
    legacy = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=legacy)
    assert list(read_metrics(tmp_path))[-2:] == ["loss/\xfc", "loss/\xe4"]
