"""What the tests of data share."""

import pytest

from rlhive.data.record import record


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the data sets of this test alone are."""
    # RLHIVE_CACHE has SimHive too, which stays.
    monkeypatch.setattr("rlhive.data.cache.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "datasets"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Three episodes of random actions; tests leave the file as it is."""
    path = tmp_path_factory.mktemp("recorded") / "demo.h5"
    record("FrankaReachRandom-v0", "random", 3, path, seed=5)
    return path
