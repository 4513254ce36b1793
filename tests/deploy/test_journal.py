"""A journal on its own: what is made of it at the end, however large it is."""

import json
import tracemalloc

import attrs
import h5py
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import trace  # noqa: F401  # imported late by what is measured here
from rlhive.deploy import reporting
from rlhive.deploy.journal import Journal, read_journal
from tests.helpers import make_spec

DEPLOYMENT = {"dt": 0.05, "settings": {"dry_run": False}}
STEPS, PIXELS = 40, PixelSpec(("top_cam",), 128, 128, "fast")


@pytest.fixture
def journal(tmp_path):
    """A journal of `STEPS` steps with images, the third reading of which was refused."""
    spec = attrs.evolve(make_spec(), pixels=PIXELS)
    journal = Journal(tmp_path / "journal.bin", spec, None, DEPLOYMENT)
    for step in range(STEPS):
        acted = {"actions": [0.1, 0.2], "latency": 0.01, "period": 0.05, "rewards": 1.0}
        said = {"refused": True} if step == 2 else acted
        journal.append({"time": 0.05 * step, "observations": np.zeros(5), "pixels": np.uint8(step), **said})
    journal.append({"time": 0.05 * STEPS, "observations": np.zeros(5), "pixels": np.uint8(STEPS)})
    return journal


def report_on(journal, folder):
    ended = {"reason": "finished", "message": "", "held": "last action", "stop_seconds": 0.0}
    return reporting.write_report(journal, folder, DEPLOYMENT, repeated_frames={}, **ended)


def test_images_are_never_in_memory_all_at_once(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "plot", lambda *_: None)
    tracemalloc.start()
    try:
        report = report_on(journal, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.steps, report.total_reward) == (STEPS - 1, STEPS - 1)
    images = read_journal(tmp_path / "journal.bin")["pixels"].nbytes
    with h5py.File(tmp_path / "trace.h5") as file:
        stored = file["Trial0/env_infos/visual_dict/rgb:top_cam:128x128:2d"][:, 0, 0, 0]
    assert stored.tolist() == [0, 1, *range(3, STEPS + 1)]
    assert peak < images / 10


def test_what_does_not_fit_into_memory_leaves_the_report(journal, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(reporting, "write_trace", fail)
    assert report_on(journal, tmp_path).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["reason"] == "finished"
    assert "not everything could be written: MemoryError" in caplog.text


def test_the_report_is_written_before_what_may_fail(journal, tmp_path, monkeypatch):
    def close():
        assert (tmp_path / "report.json").exists()
        raise OSError("full")

    monkeypatch.setattr(journal, "close", close)
    report_on(journal, tmp_path)
    assert not (tmp_path / "trace.h5").exists()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"policy": np.int64(1)}, TypeError, "int64"),
        (
            {"policy": {"path": "a" * 70_000}},
            ValueError,
            r"journal\.bin: .* bytes to describe the deployment",
        ),
    ],
)
def test_a_journal_that_could_not_be_read_is_never_begun(tmp_path, more, error, message):
    with pytest.raises(error, match=message):
        Journal(tmp_path / "journal.bin", make_spec(), None, DEPLOYMENT | more)
    assert not (tmp_path / "journal.bin").exists()


@pytest.mark.parametrize("loss", ["unlink", "truncated"])
def test_a_journal_that_is_lost_leaves_the_report(journal, tmp_path, caplog, loss):
    path = tmp_path / "journal.bin"
    path.unlink() if loss == "unlink" else path.write_bytes(b"")
    report = report_on(journal, tmp_path)
    assert (report.reason, report.steps) == ("finished", 0)
    assert json.loads((tmp_path / "report.json").read_text())["reason"] == "finished"
    assert "so the report counts no steps" in caplog.text and "journal.bin" in caplog.text
