"""What the tests of data share."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the data sets of this test alone are."""
    # RLHIVE_CACHE has SimHive too, which stays.
    monkeypatch.setattr("rlhive.data.cache.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "datasets"
