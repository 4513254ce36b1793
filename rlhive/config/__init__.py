"""Configuration: gin files and bindings in, one checked `TrainConfig` out; names load on first use."""

from typing import TYPE_CHECKING

from rlhive.lazy import attach

_HOME = {
    "ConfigError": "rlhive.config.errors",
    "TrainConfig": "rlhive.config.train_config",
    "config_text": "rlhive.config.load",
    "configured_seeds": "rlhive.config.load",
    "load_config": "rlhive.config.load",
    "operative_config_text": "rlhive.config.load",
}

__all__ = [*_HOME]
if TYPE_CHECKING:
    from rlhive.config.errors import ConfigError as ConfigError
    from rlhive.config.load import config_text as config_text
    from rlhive.config.load import configured_seeds as configured_seeds
    from rlhive.config.load import load_config as load_config
    from rlhive.config.load import operative_config_text as operative_config_text
    from rlhive.config.train_config import TrainConfig as TrainConfig
else:
    __getattr__, __dir__ = attach(__name__, _HOME)
