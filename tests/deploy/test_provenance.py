"""What is written down of a deployment: its policy, settings and configuration, when it was, and whether it was dry."""

import datetime
import errno
import fcntl
import hashlib
import json
import os
import time
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import h5py
import numpy as np
import pytest
from absl import flags

from rlhive.data import load_dataset
from rlhive.data.inspection import inspect
from rlhive.deploy import Settings, __main__, connect, connecting, reporting, run, simulate
from rlhive.deploy.__main__ import _alone_in
from rlhive.deploy.journal import read_journal, write_trace
from rlhive.deploy.provenance import describe_deployment, describe_policy
from rlhive.deploy.reporting import stop_reason
from rlhive.envs.robohive import env_spec
from rlhive.export import export
from rlhive.policy_fn import LoadError, load
from tests.deploy.arm import Wanting, deploy

NAME = "FrankaReachRandom-v0"


@pytest.fixture
def run_dir(make_run):
    return make_run(env=env_spec(NAME)).run_dir


def test_a_policy_is_named_by_the_hash_of_its_bundle(run_dir, tmp_path):
    export(run_dir, tmp_path / "bundle")
    spec = json.loads((tmp_path / "bundle/spec.json").read_text())
    found = describe_policy(tmp_path / "bundle")
    assert found == {
        "path": str(tmp_path / "bundle"),
        **{key: spec[key] for key in ("sha256", "seed", "step")},
    }


def test_a_policy_of_a_run_is_named_by_its_checkpoint(run_dir):
    found = describe_policy(run_dir)
    parameters = [path for path in run_dir.rglob("params.safetensors") if str(path.parent) == found["path"]]
    assert found["sha256"] == hashlib.sha256(parameters[0].read_bytes()).hexdigest()
    assert load(found["path"]).spec == load(run_dir).spec


def test_hardware_is_named_by_its_configuration_as_it_was_connected(
    arm, config, installed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    sha256 = hashlib.sha256(config.read_bytes()).hexdigest()
    env = connect(NAME, config.name)
    config.unlink()
    monkeypatch.chdir("/")
    report = deploy(Wanting(installed, lambda _: 0.0), env, tmp_path, max_steps=1, dry_run=True)
    assert report.deployment["hardware"] == {"path": str(config), "sha256": sha256}


def test_a_configuration_that_changes_meanwhile_is_not_connected(arm, config, monkeypatch):
    rehearse = lambda *_: config.write_text(config.read_text() + "  # edited")  # noqa: E731
    monkeypatch.setattr(connecting, "rehearse", rehearse)
    with pytest.raises(
        ValueError, match=r"robot\.config: changed while it was being checked; connect again$"
    ):
        connect(NAME, config)
    assert arm.homes == 0


SIMULATED = SimpleNamespace()


@pytest.mark.parametrize("quarter", [np.float64(0.25), Fraction(1, 4)])
def test_numbers_of_any_type_and_paths_are_written_as_plain_values(quarter):
    settings = Settings(max_steps=np.int64(3), max_delta=np.float32(0.5), frozen=quarter)
    source = MappingProxyType({"path": Path("policies/reach"), "seed": np.int64(1), "final": np.True_})
    found = describe_deployment(source, SIMULATED, settings, np.float64(0.25))
    assert found["hardware"] is None
    assert json.loads(json.dumps(found)) == found
    assert found["policy"] == {"path": "policies/reach", "seed": 1, "final": True}
    written = found["settings"]
    assert (written["max_steps"], written["max_delta"], written["frozen"], found["dt"]) == (
        3,
        0.5,
        0.25,
        0.25,
    )


def test_mappings_within_the_source_of_a_policy_are_written():
    source = {"trained": MappingProxyType({"run": "runs/reach"})}
    found = describe_deployment(source, SIMULATED, Settings(), 0.08)
    assert found["policy"] == {"trained": {"run": "runs/reach"}}


@pytest.mark.parametrize("value", [{1, 2}, object(), b"ab"])
def test_a_source_of_a_policy_that_cannot_be_written_is_one_line(value):
    with pytest.raises(ValueError, match=r"^policy_source must be plain values, .* got ") as caught:
        describe_deployment({"path": value}, SIMULATED, Settings(), 0.08)
    assert "\n" not in str(caught.value)


@pytest.fixture
def dry(run_dir, tmp_path, monkeypatch):
    """A report, and where it lies, of a dry run."""
    monkeypatch.setattr(reporting, "plot", lambda *_: None)
    settings = Settings(max_steps=2, max_delta=0.1, dry_run=True)
    source = {"path": "policies/reach", "sha256": "ab", "seed": 1, "step": 2}
    return run(load(run_dir), simulate(NAME, 0), tmp_path / "out", settings, source), tmp_path / "out"


def test_report_journal_and_trace_say_what_the_deployment_was(dry):
    _, folder = dry
    saved = json.loads((folder / "report.json").read_text())["deployment"]
    header = json.loads((folder / "journal.bin").open("rb").readline())["deployment"]
    with h5py.File(folder / "trace.h5") as file:
        assert saved == header == json.loads(file.attrs["deployment"])
    assert saved["policy"] == {"path": "policies/reach", "sha256": "ab", "seed": 1, "step": 2}
    assert (saved["dt"], saved["hardware"]) == (pytest.approx(0.08), None)
    assert (saved["settings"]["max_delta"], saved["settings"]["frozen"]) == (0.1, 1.0)
    assert {"rlhive-torch", "torch", "robohive"} <= set(saved["versions"])
    records = read_journal(folder / "journal.bin")
    assert np.diff(records["unix_time"]) == pytest.approx(np.diff(records["time"]), abs=0.05)
    started = datetime.datetime.fromisoformat(saved["started"]).timestamp()
    assert started < records["unix_time"][0] < time.time()


def test_nothing_is_learned_from_a_dry_run(dry):
    report, folder = dry
    assert report.dry_run and json.loads((folder / "report.json").read_text())["dry_run"] is True
    write_trace(folder / "journal.bin", folder / "trace.h5")  # as --recover does
    message = r"trace\.h5: is of a dry run: its actions were never sent, so nothing can be learned from it$"
    with pytest.raises(LoadError, match=message):
        load_dataset(folder / "trace.h5", skip_damaged=True)
    _, [trial] = inspect(folder / "trace.h5")
    assert "is of a dry run" in str(trial.summary)
    with h5py.File(folder / "trace.h5") as file, h5py.File(folder / "joined.h5", "w") as joined:
        file.copy("Trial0", joined)
        assert joined["Trial0"].attrs["deployment"] == file.attrs["deployment"]
    with pytest.raises(LoadError, match=r"joined\.h5: Trial0: is of a dry run"):
        load_dataset(folder / "joined.h5")


def test_only_a_report_of_the_same_deployment_says_why_it_stopped(dry):
    _, folder = dry
    path = folder / "report.json"
    report = json.loads(path.read_text())
    assert stop_reason(folder) == "finished"
    for changes in (
        {"deployment": report["deployment"] | {"started": "2020-01-01T00:00:00+00:00"}},
        {"reason": "lunch"},
        {"reason": ["finished"]},
    ):
        path.write_text(json.dumps(report | changes))
        assert stop_reason(folder) is None
    path.write_text("[" * 100_000)
    assert stop_reason(folder) is None
    path.unlink()
    assert stop_reason(folder) is None


def test_two_deployments_do_not_share_a_directory(tmp_path):
    message = f"--out={tmp_path / 'out'}: another deployment is running there; name another directory"
    with _alone_in(tmp_path / "out"), pytest.raises(ValueError) as caught, _alone_in(tmp_path / "out"):
        pass
    assert str(caught.value) == message
    (tmp_path / "out/journal.bin").touch()
    with (
        pytest.raises(ValueError, match=r"has the journal\.bin of another deployment"),
        _alone_in(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_named(number, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    message = rf"^--out={tmp_path / 'out'}: cannot be locked \({os.strerror(number)}\); name an --out on a file system"
    with pytest.raises(ValueError, match=message), _alone_in(tmp_path / "out"):
        pass


def test_an_unknown_environment_is_refused_before_anything_is_made(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOHIVE_VERBOSITY", "SILENT")
    monkeypatch.setattr(__main__, "load_torch_on_one_thread", lambda: None)
    given = {"bundle": str(run_dir), "out": str(tmp_path / "out"), "env": "nonsense-v0", "hardware": None}
    values = flags.FlagValues()
    for name, value in given.items():
        flags.DEFINE_string(name, value, "", flag_values=values)
    flags.DEFINE_multi_string("import", [], "", flag_values=values)
    values.mark_as_parsed()
    monkeypatch.setattr(__main__, "FLAGS", values)
    with pytest.raises(ValueError, match="'nonsense-v0' is not an environment of RoboHive"):
        __main__._deploy(Settings(max_steps=1))
    assert not (tmp_path / "out").exists()
