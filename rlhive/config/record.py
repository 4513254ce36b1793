"""The record that a run saves of its configuration, whatever is loaded later. Free of gin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from rlhive.config.errors import ConfigError

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig


@attrs.frozen
class Bound:
    """A factory with its settings, by value."""

    factory: Callable[..., Any]
    settings: dict[str, Any]

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.factory(*args, **{**self.settings, **given})


@attrs.frozen
class Record:
    """What a run saves of its configuration.

    Attributes:
        text: all bindings, as a gin file that gives the same configuration.
        operative_text: the bindings and defaults that its parts use.
        values: the values of the configuration's fields, by name.
    """

    text: str
    operative_text: str
    values: dict[str, Any]


def recorded(config: TrainConfig, text: str, operative_text: str) -> TrainConfig:
    """The configuration with a record of these texts and of its present values."""
    values = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    del values["record"]
    return attrs.evolve(config, record=Record(text, operative_text, values))


def record_of(config: TrainConfig) -> Record:
    """The record that a run saves of its configuration.

    Raises:
        ConfigError: it was not loaded from gin files, or was changed since, so its texts no longer describe it.
    """
    if config.record is None:
        raise ConfigError(
            "no gin file can give this configuration again for --resume: use one from load_config"
        )
    loaded = config.record.values
    fields = attrs.fields_dict(type(config))
    if changed := [
        fields[name].alias or name for name, value in loaded.items() if getattr(config, name) != value
    ]:
        raise ConfigError(
            f"{', '.join(changed)} of the configuration were changed after it was loaded, and its config.gin would "
            "not say so: give them to load_config as bindings"
        )
    return config.record


def with_seeds(config: TrainConfig, seeds: Sequence[int]) -> TrainConfig:
    """The configuration for some of its seeds only, without videos; its record still covers all of them.

    Videos show the first seed of a run, which added seeds are not.
    """
    record = record_of(config)
    part = attrs.evolve(config, seeds=seeds, seed=1, num_seeds=1, video_every=None)
    return recorded(part, record.text, record.operative_text)
