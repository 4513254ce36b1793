"""Recorded episodes (RoboHive's Trace, RoboSet, Minari) and the transitions made from them; names load on first use."""

from typing import TYPE_CHECKING

from rlhive.lazy import attach

_HOME = {
    "load_dataset": "rlhive.data.cache",
    "Dataset": "rlhive.data.dataset",
    "DatasetSpec": "rlhive.data.dataset",
    "Episode": "rlhive.data.episode",
}

__all__ = [*_HOME]
if TYPE_CHECKING:
    from rlhive.data.cache import load_dataset as load_dataset
    from rlhive.data.dataset import Dataset as Dataset
    from rlhive.data.dataset import DatasetSpec as DatasetSpec
    from rlhive.data.episode import Episode as Episode
else:
    __getattr__, __dir__ = attach(__name__, _HOME)
