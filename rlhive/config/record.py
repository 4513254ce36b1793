"""What a run leaves of the configuration that it trains with: that very one, whatever was loaded since. Free of gin."""

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
    """What a run leaves of the configuration that it trains with.

    Attributes:
        text: all bindings, as a gin file that gives the same configuration.
        operative_text: the bindings and defaults that its parts use.
        values: of the configuration's fields, by their names.
    """

    text: str
    operative_text: str
    values: dict[str, Any]


def recorded(config: TrainConfig, text: str, operative_text: str) -> TrainConfig:
    """The configuration with a record of these texts and of what it is now."""
    values = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    del values["record"]
    return attrs.evolve(config, record=Record(text, operative_text, values))


def record_of(config: TrainConfig) -> Record:
    """What a run of the configuration leaves of it.

    Raises:
        ConfigError: it was not loaded, or was changed since, so that its texts would say something else.
    """
    if config.record is None:
        raise ConfigError(
            "no gin file gives this configuration again, for --resume: take that of load_config"
        )
    loaded = config.record.values
    fields = attrs.fields_dict(type(config))
    if changed := [
        fields[name].alias or name for name, value in loaded.items() if getattr(config, name) != value
    ]:
        raise ConfigError(
            f"{', '.join(changed)} of the configuration were changed after it was loaded, and its config.gin would "
            "not say so: give them to load_config, as bindings"
        )
    return config.record


def with_seeds(config: TrainConfig, seeds: Sequence[int]) -> TrainConfig:
    """The configuration for some of its seeds alone, without videos; its record stays that of all of them.

    A run has videos of its first seed, which these join.
    """
    record = record_of(config)
    part = attrs.evolve(config, seeds=seeds, seed=1, num_seeds=1, video_every=None)
    return recorded(part, record.text, record.operative_text)
