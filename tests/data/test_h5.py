"""Damaged and malicious files: one clear line that names file, trial and key, and never other numbers."""

import itertools

import h5py
import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import Episode
from rlhive.data.convert import convert
from rlhive.data.episode import Selection
from rlhive.data.formats import detect, episodes, h5_file
from rlhive.data.h5 import datasets
from rlhive.data.inspection import Summary, inspect
from tests.data.demo_files import write_demo, write_roboset


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "demo.h5", trials=3, steps=6)


def replace(trial, key, values, **settings):
    del trial[key]
    trial.create_dataset(key, data=values, **settings)


def with_nan(trial, key, row):
    values = trial[key][:]
    values[row] = np.nan
    replace(trial, key, values, compression="gzip")


def hole(trial, key):
    """A data set of which only the first of two parts was ever written."""
    values = trial[key][:]
    del trial[key]
    partly = trial.create_dataset(
        key, values.shape, values.dtype, chunks=(4, *values.shape[1:]), compression="gzip"
    )
    partly[:4] = values[:4]


def never_written(trial, key):
    shape, dtype = trial[key].shape, trial[key].dtype
    del trial[key]
    trial.create_dataset(key, shape, dtype)


def endless(trial):
    """A group that is inside itself."""
    trial["env_infos/again"] = trial["env_infos"]


def deep(trial):
    trial.create_group("/".join("abcdefghijkl"))


def huge(trial):
    del trial["rewards"]
    trial.create_dataset("rewards", (1 << 40,), np.float64, chunks=(1 << 10,))


DAMAGES = {
    "missing key": (
        lambda t: t.pop("actions") and None,
        r"Trial1: has no actions, but done, env_infos/solved",
    ),
    "no observations": (
        lambda t: replace(t, "observations", np.zeros((7, 0))),
        r"Trial1/observations: must have a row",
    ),
    "three dimensions": (
        lambda t: replace(t, "observations", np.zeros((7, 2, 2))),
        r"observations: .* is \[7, 2, 2\]",
    ),
    "other length": (lambda t: replace(t, "observations", np.zeros((9, 6))), r"has 9 rows, actions has 7"),
    "short rewards": (
        lambda t: replace(t, "rewards", np.zeros(3)),
        "rewards: must have one number for each of 7",
    ),
    "NaN observation": (
        lambda t: with_nan(t, "observations", 2),
        r"Trial1/observations: row 2 has .* not finite",
    ),
    "NaN reward": (lambda t: with_nan(t, "rewards", 3), r"Trial1/rewards: row 3"),
    "NaN action": (lambda t: with_nan(t, "actions", 1), r"Trial1/actions: row 1"),
    "too large": (
        lambda t: replace(t, "rewards", np.full(7, 1e300)),
        r"rewards: row 0 .* not finite in float32",
    ),
    "no end": (lambda t: replace(t, "actions", t["actions"][:-1]), r"Trial1/actions: .* last is NaN"),
    "one row": (
        lambda t: replace(t, "actions", np.full((1, 3), np.nan)),
        r"Trial1/actions: must be 2 rows or more",
    ),
    "flat actions": (lambda t: replace(t, "actions", np.full(7, np.nan)), r"Trial1/actions: .* is \[7\]"),
    "done is 2": (lambda t: replace(t, "done", np.full(7, 2)), r"Trial1/done: must be 0 or 1"),
    "text": (
        lambda t: replace(t, "rewards", ["a"] * 7),
        r"Trial1/rewards: holds object .* expected plain numbers",
    ),
    "big endian": (lambda t: replace(t, "rewards", np.zeros(7, ">f8")), r"Trial1/rewards: holds >f8"),
    "complex": (lambda t: replace(t, "rewards", np.zeros(7, complex)), r"Trial1/rewards: holds complex128"),
    "hole": (lambda t: hole(t, "observations"), r"Trial1/observations: 1 of its parts were never written"),
    "never written": (
        lambda t: never_written(t, "rewards"),
        r"Trial1/rewards: 1 of its parts were never written",
    ),
    "huge": (huge, r"Trial1/rewards: claims to be 8796093022208 bytes large"),
    "soft link": (
        lambda t: t.__setitem__("rewards2", h5py.SoftLink("/Trial1/rewards2")),
        r"Trial1: rewards2: is a link",
    ),
    "external link": (
        lambda t: t.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
        r"Trial1: x: is a link",
    ),
    "named type": (
        lambda t: t.__setitem__("x", np.dtype("f8")),
        r"Trial1: x: is neither a group nor a data set",
    ),
    "endless": (endless, r"nested more than 8 deep"),
    "deep": (deep, r"nested more than 8 deep"),
    "external data": (
        lambda t: (
            (t.pop("rewards") and None)
            or t.create_dataset("rewards", (7,), "f8", external=[("/etc/hosts", 0, 56)])
        ),
        r"Trial1/rewards: keeps its data in other files",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_trial_is_named_and_the_others_are_intact(demo, tmp_path, damage):
    path = tmp_path / "damaged.h5"
    path.write_bytes(demo.read_bytes())
    change, message = DAMAGES[damage]
    with h5py.File(path, "r+") as file:
        change(file["Trial1"])
    items = list(episodes(path, detect(path)))
    with pytest.raises(LoadError, match=message) as raised:
        raise items[1]
    assert str(raised.value).startswith(f"{path}: Trial1") and "\n" not in str(raised.value)
    for number in (0, 2):
        assert_same(items[number], intact(demo)[number])


def intact(path):
    return list(episodes(path, "trace"))


def assert_same(one, other):
    for key in ("observations", "actions", "rewards", "terminated", "images"):
        assert np.array_equal(getattr(one, key), getattr(other, key)), key


def test_numbers_of_another_shape_are_understood(demo, tmp_path):
    path = tmp_path / "other.h5"
    path.write_bytes(demo.read_bytes())
    with h5py.File(path, "r+") as file:
        replace(file["Trial1"], "rewards", file["Trial1/rewards"][:].reshape(-1, 1))
        replace(file["Trial1"], "done", file["Trial1/done"][:].astype(np.float32))
        del file["Trial1/env_infos"], file["Trial1/time"]
    episode = intact(path)[1]
    assert_same(episode, intact(demo)[1])
    assert episode.solved is None and episode.times is None and episode.success is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\x80\x04K\x01.", "cannot be read"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read"),
    ],
)
def test_what_is_no_hdf5_file(tmp_path, content, message):
    path = tmp_path / "demo.h5"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message):
        detect(path)


def test_files_without_trials(tmp_path):
    with pytest.raises(LoadError, match=r"nowhere.h5: there is no such file"):
        detect(tmp_path / "nowhere.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(LoadError, match="has no trial"):
        detect(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["actions"] = np.zeros((3, 2))
    with pytest.raises(LoadError, match="actions: is a data set where a trial"):
        raise intact(tmp_path / "flat.h5")[0]


def write_minari(path, **sizes):
    convert(write_demo(path, **sizes), path.with_name("demo-v0"), "minari")
    return path.with_name("demo-v0")


WITHOUT_ROWS = {
    "a number": lambda values: np.float64(0.5),
    "nothing": lambda values: h5py.Empty("f8"),
    "no row": lambda values: values[:0],
}


@pytest.mark.parametrize(
    ("write", "not_read"),
    [
        (write_demo, ("env_infos/state/",)),
        (write_roboset, ("derived/", "data/rgb_")),
        (write_minari, ("truncations",)),
    ],
)
def test_data_sets_without_rows_are_damage_to_all_that_reads_them(tmp_path, write, not_read):
    path = write(tmp_path / "demo.h5", trials=2, steps=4)
    source = h5_file(path, detect(path))
    content = source.read_bytes()
    with h5py.File(source) as file:
        name, keys = min(file), list(datasets(file[min(file)], "here"))
    for key, without_rows in itertools.product(keys, WITHOUT_ROWS.values()):
        source.write_bytes(content)
        with h5py.File(source, "r+") as file:
            replace(file[name], key, without_rows(file[name][key][()]))
        first, second = episodes(path, detect(path))
        assert isinstance(second, Episode)
        assert isinstance(first, Episode if key.startswith(not_read) else LoadError), key
        _, [of_first, of_second] = inspect(path)
        assert str(of_first.summary) == str(first) or isinstance(first, Episode)
        assert isinstance(of_second.summary, Summary) and of_first.keys[key].nans == 0


@pytest.mark.parametrize(
    ("write", "selection"),
    [(write_demo, Selection()), (write_roboset, Selection(PixelSpec(("left_cam",), 6, 6)))],
)
def test_five_hundred_mutated_files(tmp_path, write, selection):
    original = write(tmp_path / "original.h5", trials=2, steps=5)
    content = original.read_bytes()
    expected = {episode.name: episode for episode in episodes(original, detect(original), selection)}
    path, outcomes = tmp_path / "mutated.h5", {"refused": 0, "read": 0}
    for seed in range(250):
        mutate(path, content, np.random.default_rng(seed))
        try:
            items = list(episodes(path, detect(path), selection))
        except LoadError as error:
            items = [error]
        assert items
        for item in items:
            outcomes["read" if isinstance(item, Episode) else "refused"] += 1
            if isinstance(item, LoadError):
                assert str(path) in str(item) and "\n" not in str(item)
            elif item.name in expected:  # a bit of a name makes another trial of it
                assert_same(item, expected[item.name])
            else:
                assert any(np.array_equal(item.observations, own.observations) for own in expected.values())
    assert min(outcomes.values()) > 50


def mutate(path, content, rng):
    """Writes `content` with one of two kinds of damage: to its bytes, or by HDF5's own means to one of its trials."""
    if rng.random() < 0.5:
        path.write_bytes(mutate_bytes(content, rng))
        return
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        trial = file[f"Trial{rng.integers(2)}"]
        keys = sorted(datasets(trial, "here"))
        mutate_trial(trial, keys[rng.integers(len(keys))], rng)


def mutate_trial(trial, key, rng):
    """Renames a data set, takes a row or a column off it, puts a NaN into it, or makes a circle of links."""
    values, kind = trial[key][()], rng.integers(5)
    if kind == 0:
        trial.move(key, f"{key}{rng.integers(10)}")
    elif kind == 1:
        replace(trial, key, values[:-1], compression="gzip")
    elif kind == 2:
        replace(trial, key, values[..., None] if values.ndim == 1 else values[:, 0], compression="gzip")
    elif kind == 3 and values.dtype.kind == "f":
        values.reshape(-1)[rng.integers(values.size)] = np.nan
        replace(trial, key, values, compression="gzip")
    else:
        del trial[key]
        trial[key] = h5py.SoftLink(f"{trial.name}/circle")
        trial["circle"] = h5py.SoftLink(f"{trial.name}/{key}")


def mutate_bytes(content, rng):
    """Cut short, bits flipped anywhere or in the bookkeeping at the start, or some bytes overwritten."""
    changed = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(changed[: rng.integers(len(changed))])
    if kind == 1:
        start, size = int(rng.integers(len(changed))), int(rng.integers(1, 64))
        changed[start : start + size] = rng.bytes(len(changed[start : start + size]))
        return bytes(changed)
    end = len(changed) if kind == 2 else min(len(changed), 8000)
    for _ in range(rng.integers(1, 8)):
        changed[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(changed)
