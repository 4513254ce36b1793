"""The formats Trace and Minari against files of their own writers, and what holds for all formats."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import attrs
import gymnasium
import h5py
import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import Episode, formats, minari, trace
from rlhive.data.convert import convert
from rlhive.data.episode import Selection
from rlhive.data.playback import replay
from rlhive.data.record import record
from rlhive.envs.importing import quiet
from tests.data.demo_files import ACTION_DIM, OBSERVATION_DIM, demo_rows, read_all, write_demo, write_roboset


def assert_equal(one, other):
    assert np.array_equal(one.observations, other.observations) and np.array_equal(one.actions, other.actions)
    assert np.array_equal(one.terminated, other.terminated)
    for key in ("rewards", "solved", "times"):
        ours, theirs = getattr(one, key), getattr(other, key)
        assert (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))


@pytest.mark.parametrize(("f_res", "tolerance"), [(np.float64, 1e-7), (np.float32, 1e-7), (np.float16, 2e-3)])
def test_a_trace_of_robohives_writer(tmp_path, f_res, tolerance):
    episodes = read_all(write_demo(tmp_path / "demo.h5", trials=8, f_res=f_res))
    assert [episode.success for episode in episodes] == [False] * 6 + [True] * 2
    for number, episode in enumerate(episodes):
        rows = demo_rows(number, 10)
        assert len(episode) == 10
        np.testing.assert_allclose(episode.observations, rows["observations"], atol=tolerance)
        np.testing.assert_allclose(episode.actions, rows["actions"][:-1], atol=tolerance)
        np.testing.assert_allclose(episode.rewards, rows["rewards"][1:], atol=tolerance * 4)
        assert np.array_equal(episode.terminated, rows["done"][1:])
        assert np.array_equal(episode.solved, rows["solved"][1:])
        np.testing.assert_allclose(episode.times, rows["time"], atol=tolerance)
        assert episode.total_reward == pytest.approx(rows["rewards"][1:].sum(), abs=tolerance * 40)


def test_the_names_and_the_order_of_trials(tmp_path):
    episodes = read_all(write_demo(tmp_path / "demo.h5", trials=12, steps=2, prefix="Rollout"))
    assert [episode.name for episode in episodes] == [f"Rollout{number}" for number in range(12)]


def test_the_format_is_told_by_the_first_trial_that_can_be_read(tmp_path, monkeypatch):
    path, opened = write_roboset(tmp_path / "set.h5", trials=4), []
    with h5py.File(path, "r+") as file:
        del file["Trial0"]
        file["Trial0"] = np.zeros(3)
    open_trial = formats.open_trial
    monkeypatch.setattr(
        formats, "open_trial", lambda file, name, where: opened.append(name) or open_trial(file, name, where)
    )
    assert formats.detect(path) == "roboset" and opened == ["Trial0", "Trial1"]


def test_an_observation_of_one_scalar_part(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    with h5py.File(path, "r+") as file:
        file["Trial0/env_infos/obs_dict/t"] = file["Trial0/time"][:]
    [episode] = formats.episodes(path, "trace", Selection(observation_keys=("t",)))
    assert np.array_equal(episode.observations[:, 0], episode.times.astype(np.float32))


def test_robohive_reads_what_we_write(tmp_path):
    original = read_all(write_demo(tmp_path / "demo.h5"))
    with trace.trace_file(tmp_path / "ours.h5", "FrankaReachRandom-v0") as file:
        for episode in original:
            trace.write_episode(file, episode)
    assert trace.read_environment(tmp_path / "ours.h5") == "FrankaReachRandom-v0"
    for one, other in zip(original, read_all(tmp_path / "ours.h5"), strict=True):
        assert_equal(one, other)
    with quiet():
        from robohive.logger.grouped_datasets import Trace

        loaded = Trace.load(str(tmp_path / "ours.h5"), trace_type="RoboHive")
    rows = demo_rows(1, 10)
    assert len(loaded) == 3
    np.testing.assert_allclose(loaded["Trial1"]["observations"], rows["observations"], atol=1e-6)
    assert np.isnan(loaded["Trial1"]["actions"][-1]).all()
    assert np.array_equal(loaded["Trial1"]["env_infos"]["solved"], rows["solved"])
    loaded.trace.close()


def test_a_trace_without_rewards(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=2)
    with_rewards = read_all(path)
    with h5py.File(path, "r+") as file:
        del file["Trial0/rewards"], file["Trial1/rewards"]
    for one, other in zip(with_rewards, read_all(path), strict=True):
        assert_equal(attrs.evolve(one, rewards=None), other)
    for to, out in (("minari", "out-v0"), ("roboset", "out.h5")):
        with pytest.raises(LoadError, match="Trial0: has no"):
            convert(path, tmp_path / out, to)


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), trace.trace_file(path, None):
        raise RuntimeError("half way")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_conversions_that_cannot_be(tmp_path):
    write_roboset(tmp_path / "set.h5")
    write_demo(tmp_path / "demo.h5")
    with pytest.raises(LoadError, match=r"set\.h5: Trial0: has no rewards, which a trace needs; behav"):
        convert(tmp_path / "set.h5", tmp_path / "out.h5", "trace")
    with pytest.raises(LoadError, match=r"set\.h5: Trial0: has no rewards, which a minari needs; behav"):
        convert(tmp_path / "set.h5", tmp_path / "out-v0", "minari")
    with pytest.raises(
        LoadError,
        match="Trial0: has no 'env_infos/obs_dict/time', which a RoboSet needs; --to=minari takes any robot",
    ) as no:
        convert(tmp_path / "demo.h5", tmp_path / "out.h5", "roboset")
    assert "skip_damaged" not in str(no.value)
    with pytest.raises(ValueError, match="is already a trace"):
        convert(tmp_path / "demo.h5", tmp_path / "out.h5", "trace")
    with pytest.raises(ValueError, match="no format 'trase': expected one of trace, roboset, minari"):
        convert(tmp_path / "set.h5", tmp_path / "out.h5", "trase")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.h5", "set.h5"]


def test_what_is_there_already_is_not_written_over(tmp_path, monkeypatch):
    demo, other = write_demo(tmp_path / "demo.h5", trials=1), tmp_path / "other-v0"
    convert(demo, minaris := tmp_path / "demo-v0", "minari")
    other.write_text("precious")
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", None)  # nothing is built before that
    for call in (
        lambda: record("FrankaReachRandom-v0", "random", 1, other),
        lambda: replay(demo, "FrankaReachRandom-v0", other),
        lambda: convert(demo, other, "minari"),
        lambda: convert(demo, other, "roboset"),
        lambda: convert(minaris, other, "trace"),
    ):
        with pytest.raises(ValueError, match="other-v0: is there already; choose another name"):
            call()
    assert other.read_text() == "precious"
    with pytest.raises(ValueError, match=r"out\.h5: must be a new name in a directory that exists"):
        record("FrankaReachRandom-v0", "random", 1, tmp_path / "nowhere" / "out.h5")


def test_an_attribute_that_is_no_text_is_damage(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    images = PixelSpec(("top_cam",), 4, 4, "fast")
    reading = {"environment": trace.read_environment, "pixels": trace.read_pixels}
    with h5py.File(path, "r+") as file:
        file.attrs["environment"] = np.bytes_(b"somewhere-v0")
        file.attrs["pixels"] = np.bytes_(json.dumps(images.to_dict()).encode())
    assert trace.read_environment(path) == "somewhere-v0" and trace.read_pixels(path) == images
    for value in (7, ["somewhere-v0"], np.zeros(2), h5py.Empty("f")):
        for name, read in reading.items():
            with h5py.File(path, "r+") as file:
                file.attrs[name] = value
            with pytest.raises(LoadError, match=rf"demo\.h5: its attribute '{name}' must be text, is "):
                read(path)
    with h5py.File(path, "r+") as file:
        file.attrs["environment"] = np.bytes_(b"\xff")
    with pytest.raises(LoadError, match=r"demo\.h5: its attribute 'environment': cannot be read"):
        trace.read_environment(path)


def test_minari_and_back(tmp_path, monkeypatch):
    import minari as package

    path = write_demo(tmp_path / "demo.h5")
    assert convert(path, tmp_path / "reach-v0", "minari") == (3, [])
    assert convert(tmp_path / "reach-v0", tmp_path / "back.h5", "trace") == (3, [])
    for one, other in zip(read_all(path), read_all(tmp_path / "back.h5"), strict=True):
        assert_equal(one, other)

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = package.load_dataset("reach-v0")
    assert theirs.total_episodes == 3 and theirs.total_steps == 30
    for episode, own in zip(theirs.iterate_episodes(), read_all(path), strict=True):
        assert np.array_equal(episode.observations, own.observations)
        assert np.array_equal(episode.actions, own.actions) and np.array_equal(episode.rewards, own.rewards)
        assert np.array_equal(episode.terminations, own.terminated)
        assert list(episode.truncations) == [False] * 9 + [not own.terminated[-1]]


def test_a_relative_path_of_minari(tmp_path, monkeypatch):
    write_demo(tmp_path / "demo.h5", trials=1)
    monkeypatch.chdir(tmp_path)
    assert convert("demo.h5", "reach-v0", "minari") == (1, [])
    assert len(read_all("reach-v0")) == 1 and sorted(os.listdir()) == ["demo.h5", "reach-v0"]


def test_minari_is_written_beside_what_a_killed_process_left_of_it(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".reach-v0.0f.{os.uname().nodename}.{ended.pid}.tmp/data").mkdir(parents=True)
    convert(path, tmp_path / "reach-v0", "minari")
    assert sorted(os.listdir(tmp_path)) == ["demo.h5", "reach-v0"]


def test_minari_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    folder, before, after = tmp_path / "reach-v0", set(), set()
    fsync = os.fsync

    def noted(descriptor):
        (after if folder.exists() else before).add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert convert(write_demo(tmp_path / "demo.h5", trials=1), folder, "minari") == (1, [])
    beside = min(map(Path, before))
    assert re.fullmatch(
        rf"\.reach-v0\.\w+\.{re.escape(os.uname().nodename)}\.{os.getpid()}\.tmp", beside.name
    )
    parts = ("", "data", "data/main_data.hdf5", "data/metadata.json")
    assert beside.parent == tmp_path
    assert before == {str(beside / part) for part in parts} and after == {str(tmp_path)}


def test_minari_on_a_disk_that_fills_up_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    path, usage = write_demo(tmp_path / "demo.h5"), shutil.disk_usage(tmp_path)
    left = iter([1 << 30, 1 << 30, 1 << 18])  # before each of its three episodes
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=next(left)))
    with pytest.raises(OSError, match="reach-v0") as raised:
        convert(path, tmp_path / "reach-v0", "minari")
    assert raised.value.errno == errno.ENOSPC and not list(left)
    assert list(tmp_path.iterdir()) == [path] and capfd.readouterr().err == ""


def test_the_environment_goes_to_minari_and_back(tmp_path):
    episode = read_all(write_demo(tmp_path / "demo.h5", trials=1))[0]
    assert minari.write(tmp_path / "reach-v1", [episode], "FrankaReachRandom-v0") == 1
    assert minari.read_environment(tmp_path / "reach-v1") == "FrankaReachRandom-v0"
    metadata = {"data_format": "hdf5", "env_spec": "[" * 100_000, "observation_space": "[" * 100_000}
    (tmp_path / "reach-v1" / minari.METADATA).write_text(json.dumps(metadata))
    assert minari.read_environment(tmp_path / "reach-v1") is None
    with pytest.raises(LoadError, match="its metadata has no observation_space"):
        read_all(tmp_path / "reach-v1")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_data_set_of_minaris_writer(tmp_path, monkeypatch):
    import minari as package
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    box = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
    actions = gymnasium.spaces.Box(-1, 1, (ACTION_DIM,), np.float32)
    buffers = [
        EpisodeBuffer(
            observations=rng.normal(size=(6, OBSERVATION_DIM)),
            actions=rng.uniform(-1, 1, (5, ACTION_DIM)).astype(np.float32),
            rewards=list(rng.normal(size=5)),
            terminations=[False] * 4 + [True],
            truncations=[False] * 5,
        )
        for _ in range(11)
    ]
    package.create_dataset_from_buffers("theirs-v0", buffers, observation_space=box, action_space=actions)
    episodes = read_all(tmp_path / "theirs-v0")
    assert [episode.name for episode in episodes] == [f"episode_{number}" for number in range(11)]
    for episode, buffer in zip(episodes, buffers, strict=True):
        np.testing.assert_allclose(episode.observations, buffer.observations, rtol=1e-6)
        np.testing.assert_allclose(episode.rewards, buffer.rewards, rtol=1e-6)
        assert list(episode.terminated) == buffer.terminations
        assert episode.solved is None and episode.times is None
    assert minari.read_environment(tmp_path / "theirs-v0") is None


def test_minari_refuses(tmp_path):
    episode = Episode(
        "one", np.zeros((3, 1), np.float32), np.zeros((2, 1), np.float32), None, np.zeros(2, bool)
    )
    with pytest.raises(ValueError, match="must end in a version, such as reach-v0"):
        minari.write(tmp_path / "reach", [episode], None)
    (tmp_path / "there-v0").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        minari.write(tmp_path / "there-v0", [episode], None)
    with pytest.raises(LoadError, match="there is no episode"):
        minari.write(tmp_path / "none-v0", [], None)
    with pytest.raises(LoadError, match=r"metadata.json: cannot be read as Minari's metadata"):
        read_all(tmp_path / "there-v0")
    (tmp_path / "there-v0/data").mkdir()
    for text, message in [
        ("[]", "must be a JSON object"),
        ('{"data_format": "arrow"}', "is stored as 'arrow'; only Minari's hdf5 is read"),
        ('{"data_format": "hdf5"}', "has no observation_space"),
        (r'{"data_format": "hdf5", "observation_space": "{\"type\": \"Dict\"}"}', "is a Dict; only vectors"),
    ]:
        (tmp_path / "there-v0/data/metadata.json").write_text(text)
        with pytest.raises(LoadError, match=message):
            read_all(tmp_path / "there-v0")
    assert [path.name for path in tmp_path.iterdir()] == ["there-v0"]
