"""From files to transitions on disk: built once, whole or not at all, in little memory."""

import ctypes
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torchrl.data import ReplayBuffer, TensorStorage
from tqdm import tqdm

from rlhive.core.errors import LoadError
from rlhive.core.normalizer import init_normalizer, update_normalizer
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.replay import KEYS
from rlhive.data import cache as cache_module
from rlhive.data import dataset as dataset_module
from rlhive.data import load_dataset
from rlhive.data.convert import convert
from rlhive.data.dataset import SPEC_FILE
from rlhive.data.episode import Selection
from rlhive.data.formats import episodes
from rlhive.data.trace import trace_file, write_trial
from tests.data.demo_files import ACTION_DIM, OBSERVATION_DIM, demo_rows, write_demo, write_roboset

SKIP = "leave such trials out with --skip_damaged, in training with train.skip_damaged=True"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def folders(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_transitions_are_those_of_the_file(tmp_path):
    dataset = load_dataset(write_demo(tmp_path / "demo.h5", trials=3, steps=10))
    spec = dataset.spec
    assert (spec.format, spec.observation_dim, spec.action_dim) == ("trace", OBSERVATION_DIM, ACTION_DIM)
    assert (spec.steps, len(dataset), spec.lengths) == (30, 30, (10, 10, 10))
    assert spec.environment is None and spec.has_rewards and not spec.damaged
    assert set(dataset.transitions.keys(True, True)) == set(KEYS)
    for number in range(3):
        rows, of_trial = demo_rows(number, 10), dataset.take(torch.arange(10 * number, 10 * number + 10))
        expected = {
            "observation": rows["observations"][:-1],
            "action": rows["actions"][:-1],
            ("next", "observation"): rows["observations"][1:],
            ("next", "reward"): rows["rewards"][1:, None],
        }
        for key, values in expected.items():
            assert np.array_equal(of_trial[key], values.astype(np.float32)), key
        assert np.array_equal(of_trial["next", "terminated"][:, 0], rows["done"][1:])
        assert of_trial["next", "done"][:, 0].tolist() == [False] * 9 + [True]


def test_a_seed_draws_the_same_alone_and_among_others(tmp_path):
    dataset = load_dataset(write_demo(tmp_path / "demo.h5"))
    together = dataset.sample(seeds(1, 2), 16)
    assert together.batch_size == (2, 16)
    alone = dataset.sample(seeds(2), 16)
    for key in KEYS:
        assert torch.equal(together[key][1], alone[key][0])
    assert not torch.equal(together["action"][0], together["action"][1])
    together["action"].zero_()  # fresh tensors: the data set is as it was
    assert torch.equal(dataset.sample(seeds(2), 16)["action"], alone["action"])
    with pytest.raises(ValueError, match="batch_size >= 1"):
        dataset.sample(seeds(1), 0)


def test_what_is_written_to_the_transitions_is_the_writers_own(tmp_path):
    path = write_demo(tmp_path / "demo.h5")
    dataset = load_dataset(path)
    before = dataset.take(torch.arange(len(dataset)))
    written = dataset.transitions
    written["action"].mul_(2)
    written["next", "done"].logical_not_()
    assert torch.equal(written["action"], 2 * before["action"])
    replay = ReplayBuffer(storage=TensorStorage(dataset.transitions))
    replay.extend(replay[:].clone().apply(torch.zeros_like))
    for found in (dataset, load_dataset(path)):
        for seen in (found.take(torch.arange(len(found))), found.transitions):
            for key in KEYS:
                assert torch.equal(seen[key], before[key]), key


def test_blocks_of_a_vector_are_copies_and_map_no_other_column(tmp_path, monkeypatch):
    dataset = load_dataset(write_demo(tmp_path / "demo.h5"))
    monkeypatch.setattr(dataset_module, "_BLOCK", 4 * ACTION_DIM)
    expected = dataset.transitions["action"].double()
    (dataset.folder / "action.bin").unlink()
    blocks = list(dataset.blocks("action"))
    assert len(blocks) == 8 and torch.equal(torch.cat(blocks), expected)
    blocks[0].zero_()
    assert torch.equal(torch.cat(list(dataset.blocks("action"))), expected)


def test_the_normaliser_is_that_of_all_observations(tmp_path):
    dataset = load_dataset(write_demo(tmp_path / "demo.h5", trials=5, steps=20))
    expected = update_normalizer(
        init_normalizer(OBSERVATION_DIM), dataset.take(torch.arange(100))["observation"]
    )
    normalizer = dataset.normalizer()
    for key in ("loc", "scale", "count"):
        torch.testing.assert_close(normalizer[key], expected[key], rtol=1e-6, atol=1e-6)


def test_built_once_and_found_by_content(tmp_path, cache):
    path = write_demo(tmp_path / "demo.h5")
    first = load_dataset(path)
    before = (folders(cache)[0] / SPEC_FILE).stat().st_mtime_ns
    path.rename(tmp_path / "renamed.h5")
    again = load_dataset(tmp_path / "renamed.h5")
    assert again.spec.sha256 == first.spec.sha256 and again.spec.source == str(tmp_path / "renamed.h5")
    assert (folders(cache)[0] / SPEC_FILE).stat().st_mtime_ns == before
    load_dataset(write_demo(path, trials=2))
    assert len(folders(cache)) == 2


def test_a_data_set_behind_links_is_found_by_what_is_read(tmp_path, cache):
    for name, trials in (("one", 1), ("two", 2)):
        convert(write_demo(tmp_path / f"{name}.h5", trials=trials), tmp_path / f"{name}-v0", "minari")
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(tmp_path / f"{name}-v0" / "data")
    for name, steps in (("one", 10), ("two", 20)):
        linked, direct = load_dataset(tmp_path / name), load_dataset(tmp_path / f"{name}-v0")
        assert linked.spec.steps == direct.spec.steps == steps
        assert linked.spec.sha256 == direct.spec.sha256
    assert len(folders(cache)) == 2


def test_a_directory_without_data_is_refused(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match=r"empty/data/main_data\.hdf5: there is no such file"):
        load_dataset(tmp_path / "empty")
    assert not cache.exists()


def test_damaged_trials_are_left_out_when_asked_for(tmp_path, caplog):
    path = write_demo(tmp_path / "demo.h5", trials=4)
    with h5py.File(path, "r+") as file:
        del file["Trial1/actions"]
        values = file["Trial2/observations"][:, :4]
        del file["Trial2/observations"]
        file["Trial2/observations"] = values
    with pytest.raises(LoadError, match=r"Trial1: has no actions.*; " + SKIP):
        load_dataset(path)
    for _ in range(2):  # when it is built, and when it is found
        caplog.clear()
        spec = load_dataset(path, skip_damaged=True).spec
        assert spec.trials == ("Trial0", "Trial3") and spec.steps == 20
        assert "Trial1: has no actions" in spec.damaged[0]
        assert "Trial2: has 4 observations and 3 actions per step, Trial0 has 6 and 3" in spec.damaged[1]
        assert "left out 2 of 4 trials" in caplog.text
    with pytest.raises(LoadError, match="Trial1"):
        load_dataset(path)


def test_reasons_of_damaged_trials_do_not_depend_on_where_the_data_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_demo("demo.h5")
    convert("demo.h5", "demo-v0", "minari")
    with h5py.File("demo.h5", "r+") as file, h5py.File("demo-v0/data/main_data.hdf5", "r+") as minari:
        for damaged in (file["Trial1"], minari["episode_1"]):
            del damaged["actions"]
        for narrow in (file["Trial2"], minari["episode_2"]):
            values = narrow["observations"][:, :4]
            del narrow["observations"]
            narrow["observations"] = values
    for path, name in (("./demo.h5", "Trial"), ("demo-v0", "episode_")):
        damaged = load_dataset(path, skip_damaged=True).spec.damaged
        assert [reason.split(":")[0] for reason in damaged] == [f"{name}1", f"{name}2"]


def test_nothing_is_kept_of_what_cannot_be_read(tmp_path, cache):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    with h5py.File(path, "r+") as file:
        del file["Trial0/actions"]
    with pytest.raises(LoadError, match=r"has no intact trial; the first one: .*Trial0: has no actions"):
        load_dataset(path, skip_damaged=True)
    with pytest.raises(LoadError, match="there is no such file or directory"):
        load_dataset(tmp_path / "nowhere.h5")
    with pytest.raises(LoadError, match="the path of the data set is empty"):
        load_dataset("")
    assert not folders(cache)


def test_a_roboset_has_no_rewards(tmp_path):
    dataset = load_dataset(write_roboset(tmp_path / "set.h5"))
    assert not dataset.spec.has_rewards and ("next", "reward") not in dataset.sample(seeds(1), 2).keys(True)


@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_that_lacks_the_rewards_of_the_others_is_damaged(tmp_path, number):
    path = write_demo(tmp_path / "demo.h5", trials=3)
    with h5py.File(path, "r+") as file:
        del file[f"Trial{number}/rewards"]
    with pytest.raises(LoadError, match=f"Trial{number}: has no rewards, but actions"):
        load_dataset(path)
    spec = load_dataset(path, skip_damaged=True).spec
    assert spec.has_rewards and f"Trial{number}" not in spec.trials and len(spec.trials) == 2


@pytest.mark.parametrize("damage", ["cut", "lost", "text", "version", "fields", "file"])
def test_a_damaged_cache_is_made_anew(tmp_path, cache, damage, caplog):
    path = write_demo(tmp_path / "demo.h5")
    whole = load_dataset(path).take(torch.arange(30))
    folder = folders(cache)[0]
    values = json.loads((folder / SPEC_FILE).read_text())
    if damage == "cut":
        os.truncate(folder / "action.bin", 100)
    elif damage == "lost":
        (folder / "next.reward.bin").unlink()
    elif damage == "text":
        (folder / SPEC_FILE).write_text("{")
    elif damage == "file":
        shutil.rmtree(folder)
        folder.write_text("")
    else:
        changed = values | ({"format_version": 99} if damage == "version" else {"more": 1})
        (folder / SPEC_FILE).write_text(json.dumps(changed))
    assert not caplog.messages
    assert bool((load_dataset(path).take(torch.arange(30)) == whole).all())
    (said,) = caplog.messages
    assert re.fullmatch(rf"{folder}: is not a complete data set \(.*\); it is built again", said)
    assert bool((load_dataset(path).take(torch.arange(30)) == whole).all()) and len(caplog.messages) == 1


def load_within(path, most):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        load_dataset(path)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        Path(path).with_name("said").write_text(str(error))


def test_what_cannot_be_written_is_one_line(tmp_path, cache, monkeypatch):
    path = write_demo(tmp_path / "demo.h5", trials=3)
    process = in_fork(load_within, path, 100)
    process.join(60)
    remedy = "make room, or set RLHIVE_CACHE to another directory"
    said = (tmp_path / "said").read_text()
    assert said == f"{cache}: cannot write a data set there (File too large): {remedy}"
    assert not folders(cache)
    monkeypatch.setenv("RLHIVE_CACHE", str(path))
    with pytest.raises(OSError, match=rf"{path}/datasets: cannot write a data set there .*: {remedy}"):
        load_dataset(path)


def test_an_error_of_reading_is_not_told_as_one_of_writing(tmp_path, cache, monkeypatch):
    path = write_demo(tmp_path / "demo.h5", trials=1)

    def intact(*_):
        raise OSError("the source cannot be read")
        yield

    monkeypatch.setattr(cache_module, "intact", intact)
    with pytest.raises(OSError, match=r"^the source cannot be read$"):
        load_dataset(path)
    assert not folders(cache)


def test_gaps_in_the_clock_are_warned_of_each_time(tmp_path, caplog):
    path = write_demo(tmp_path / "my demo.h5", trials=2)
    load_dataset(path)
    assert not caplog.messages
    with h5py.File(path, "r+") as file:
        file["Trial1/time"][4:] += 5.0
        file["Trial1/time"][8] = file["Trial1/time"][7]
    for _ in range(2):  # when it is built, and when it is found
        caplog.clear()
        assert load_dataset(path).spec.gaps == 3
        assert f"{path}: its clock stands still, runs back or jumps at 3 of 20 steps; `" in caplog.text
        assert f"python -m rlhive.data inspect '{path}'` says in which trials" in caplog.text


def test_a_data_set_in_the_cache_is_opened_without_a_lock(tmp_path, cache):
    path = write_demo(tmp_path / "demo.h5")
    load_dataset(path)
    (lock,) = cache.glob("*.lock")
    lock.unlink()
    assert load_dataset(path).spec.steps == 30 and not lock.exists()


def in_fork(function, *arguments):
    """Starts `function` in a process of its own, which has all that is imported here."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def build_until_killed(path, half_way):
    inner = cache_module.make_columns

    def waiting(episode, *arguments):
        if episode.name == "Trial3":
            half_way.set()
            signal.pause()
        return inner(episode, *arguments)

    cache_module.make_columns = waiting
    load_dataset(path)


def test_a_build_that_is_killed_leaves_nothing_that_is_read(tmp_path, cache):
    path = write_demo(tmp_path / "demo.h5", trials=5)
    half_way = multiprocessing.get_context("fork").Event()
    process = in_fork(build_until_killed, path, half_way)
    assert half_way.wait(60)
    process.kill()
    process.join()
    assert [folder.suffix for folder in folders(cache)] == [".tmp"]
    assert load_dataset(path).spec.steps == 50
    assert [folder.suffix for folder in folders(cache)] == [""]  # what was left is gone


def test_two_processes_build_one_data_set(tmp_path, cache):
    path = write_demo(tmp_path / "demo.h5", trials=20)
    processes = [in_fork(load_dataset, path) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(folders(cache)) == 1 and load_dataset(path).spec.steps == 200


LIMIT = 16 << 20  # bytes
M_MMAP_THRESHOLD = -3  # of malloc.h


def memory_of_its_own():
    """What Linux counts against RLIMIT_DATA: all memory of this process that is not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def within_the_limit(use, path):
    """Whether `use(path)` succeeds in a process that may not have more than `LIMIT` beside what it begins with."""

    def limited():
        torch.set_num_threads(1)
        tqdm.monitor_interval = 0  # the stack of its thread would count as 8 MB
        # Arrays of 64 KiB are new memory then, once nothing is left of what tests before have freed, which counts
        # already.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
        before, freed = memory_of_its_own(), []
        while memory_of_its_own() == before:
            freed.append(bytearray(1 << 16))
        most = memory_of_its_own() + LIMIT
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        use(path)

    process = in_fork(limited)
    process.join(120)
    return process.exitcode == 0


def build_and_draw(path, **images):
    dataset = load_dataset(path, **images)
    for _ in range(50):
        dataset.sample(seeds(0), 256 if not images else 8)
    dataset.normalizer()


def keep_everything(path, *selection):
    for item in list(episodes(path, "trace", *selection)):
        if isinstance(item, LoadError):
            raise item


def test_a_file_of_four_times_the_memory(tmp_path):
    path = tmp_path / "large.h5"
    write_large(path, trials=64, steps=2000)
    assert path.stat().st_size > 4 * LIMIT
    assert within_the_limit(build_and_draw, path)
    assert not within_the_limit(keep_everything, path)


def test_images_of_four_times_the_memory(tmp_path):
    path, pixels = tmp_path / "seen.h5", PixelSpec(("cam",), 96, 96)
    rng = np.random.default_rng(0)
    values = {key: value for key, value in demo_rows(0, 5).items() if key != "solved"}
    with trace_file(path, None, pixels) as file:
        for number in range(420):
            trial = file.create_group(f"Trial{number}")
            images = rng.integers(256, size=(6, 96, 96, 3), dtype=np.uint8)
            for key, value in {**values, "env_infos/visual_dict/rgb:cam:96x96:2d": images}.items():
                trial.create_dataset(key, data=value)
    assert path.stat().st_size > 4 * LIMIT
    assert within_the_limit(lambda path: build_and_draw(path, pixels=pixels), path)
    assert not within_the_limit(lambda path: keep_everything(path, Selection(pixels)), path)


def write_large(path, trials, steps):
    """Numbers that gzip cannot make much smaller."""
    rng = np.random.default_rng(0)
    with trace_file(path, None) as file:
        for number in range(trials):
            actions = rng.uniform(-1, 1, (steps + 1, 16))
            actions[-1] = np.nan
            flags, rewards = np.zeros(steps + 1, bool), rng.normal(size=steps + 1)
            observations = rng.normal(size=(steps + 1, 64))
            values = {"observations": observations, "actions": actions, "rewards": rewards, "done": flags}
            write_trial(file, f"Trial{number}", values)
