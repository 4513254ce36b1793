"""Writing HDF5 on a disk that is full."""

import errno
import gc
import itertools
import signal

import h5py
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.new_h5 import NewH5, _Disk
from rlhive.data.trace import trace_file, write_trial
from rlhive.deploy.journal import _write_images
from tests.helpers import files_up_to

VALUES = {f"part/{index}": np.random.default_rng(index).standard_normal((20, 9)) for index in range(10)}


@pytest.mark.parametrize("size", [0, 10, 1000, 20_000, 50_000])
def test_a_disk_that_fills_up_is_one_error_and_leaves_nothing(tmp_path, capfd, size):
    path, written = tmp_path / "demo.h5", []
    with (
        files_up_to(size),
        pytest.raises(OSError, match=r"demo\.h5") as raised,
        trace_file(path, "a-v0") as file,
    ):
        for number in range(100):
            write_trial(file, f"Trial{number}", VALUES)
            written.append(number)
    gc.collect()
    assert raised.value.errno == errno.EFBIG and len(written) < 10
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_a_disk_that_fills_up_as_the_file_is_closed(tmp_path, capfd):
    path = tmp_path / "demo.h5"
    writing = trace_file(path, "a-v0")
    write_trial(writing.__enter__(), "Trial0", VALUES)
    with files_up_to(1000), pytest.raises(OSError, match=r"demo\.h5"):
        writing.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_what_was_not_written_is_there_for_hdf5_to_close_the_file(tmp_path):
    path = tmp_path / "demo.h5"
    with files_up_to(5000):
        with NewH5(path) as file:
            _keep_little_in_memory(file)
            for number in range(80):
                file.create_dataset(f"{number}/values", data=np.full(3, number), compression="gzip")
            assert [int(file[f"{number}/values"][2]) for number in range(80)] == list(range(80))
        with pytest.raises(OSError, match="too large"):
            file.check()


def test_ctrl_c_while_hdf5_writes_ends_the_writing_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    """HDF5 writes through Python, which handles there what came while HDF5 was busy."""
    write = _Disk.write

    def write_file(interrupted_at=None):
        writes = itertools.count()

        def interrupted(disk, data):
            if next(writes) == interrupted_at:
                signal.raise_signal(signal.SIGINT)
            return write(disk, data)

        monkeypatch.setattr(_Disk, "write", interrupted)
        with trace_file(tmp_path / "demo.h5", "a-v0", PixelSpec(("cam",), 8, 8)) as file:
            _keep_little_in_memory(file)
            write_trial(file, "Trial0", VALUES, seed=1)
            _write_images(file, "Trial0/images", np.zeros((5, 1, 8, 8, 3), np.uint8), np.arange(5), 0)
        return next(writes)

    count = write_file()
    (tmp_path / "demo.h5").unlink()
    for number in range(count):
        with pytest.raises(KeyboardInterrupt):
            write_file(interrupted_at=number)
        assert list(tmp_path.iterdir()) == []
    gc.collect()
    assert count > 20 and capfd.readouterr().err == ""


def test_two_files_at_one_path_are_never_mixed(tmp_path):
    path = tmp_path / "demo.h5"
    with trace_file(path, "a-v0") as first:
        write_trial(first, "Trial0", VALUES)
        with trace_file(path, "b-v0") as second:
            write_trial(second, "Trial1", VALUES)
        with h5py.File(path) as file:
            assert file.attrs["environment"] == "b-v0" and list(file) == ["Trial1"]
        write_trial(first, "Trial2", VALUES)
    with h5py.File(path) as file:
        assert file.attrs["environment"] == "a-v0" and list(file) == ["Trial0", "Trial2"]
        assert all(np.array_equal(file["Trial0"][name][()], value) for name, value in VALUES.items())
    assert list(tmp_path.iterdir()) == [path]


def _keep_little_in_memory(file):
    """HDF5 reads its bookkeeping again from the file as soon as it is written."""
    config = file.id.get_mdc_config()
    config.set_initial_size, config.incr_mode, config.decr_mode = True, 0, 0
    config.initial_size, config.min_size, config.max_size = 1024, 1024, 4096
    file.id.set_mdc_config(config)


def test_a_file_is_as_h5py_writes_it(tmp_path):
    with NewH5(tmp_path / "ours.h5") as file:
        file.attrs["name"] = "text"
        file.create_dataset(
            "images", data=np.arange(60_000, dtype=np.uint16).reshape(600, 100), chunks=(1, 100)
        )
    file.check()
    with h5py.File(tmp_path / "ours.h5") as file:
        assert file.attrs["name"] == "text" and np.array_equal(file["images"][()].ravel(), np.arange(60_000))
