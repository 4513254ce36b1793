"""Recorded episodes: RoboHive's Trace, RoboSet and Minari, and transitions made of them; names load on first use."""

from rlhive.lazy import attach

_HOME = {
    "load_dataset": "rlhive.data.cache",
    "Dataset": "rlhive.data.dataset",
    "DatasetSpec": "rlhive.data.dataset",
    "Episode": "rlhive.data.episode",
}

__all__ = [*_HOME]
__getattr__, __dir__ = attach(__name__, _HOME)
