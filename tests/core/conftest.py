"""What the tests of the training loop share."""

import pytest

from rlhive.envs.toy import ReachPoint
from tests.core.loop_runs import train


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A finished run of seed 1 on `ReachPoint`, to be read only."""
    return train(ReachPoint, tmp_path_factory.mktemp("plain"))
