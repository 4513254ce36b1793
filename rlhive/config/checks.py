"""Checks of a configuration before a run starts. Free of gin."""

from __future__ import annotations

import inspect
import logging
import math
import reprlib
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from rlhive.algorithms import ALGORITHMS
from rlhive.config.errors import ConfigError, finite, fits, within_64_bits
from rlhive.config.record import Bound
from rlhive.core.errors import LoadError
from rlhive.core.replay import ReplayBuffer
from rlhive.data.source import environment_of
from rlhive.envs.names import check_name
from rlhive.runs.run_files import CHECKPOINTS, checkpoint_dir

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

logger = logging.getLogger("rlhive.config")

# By the fields of a configuration: the parameters of its parts that the run itself gives.
GIVEN = {
    "make_network": ["spec", "feature_dim"],
    "make_loss": ["network"],
    "exploration": ["action_low", "action_high"],
    "encoder": ["pixels"],
}


def check_seeds(seeds: Sequence[int], num_envs: int, most_seeds: int, most_envs: int) -> None:
    """Refuses invalid seeds, too many seeds, and too many environments over all seeds.

    Raises:
        ValueError: naming them.
    """
    if len(seeds) > most_seeds:
        raise ValueError(f"Length of 'seeds' must be <= {most_seeds}: {len(seeds)}")
    plain = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in seeds)
    if not plain or len(set(seeds)) < len(seeds):
        got = reprlib.repr(list(seeds))
        raise ValueError(f"train.seeds must be whole numbers from 0 to 2**32 - 1, each once, got {got}")
    if len(seeds) * num_envs > most_envs:
        raise ValueError(
            f"{len(seeds)} seed(s) of {num_envs} environments each are more than {most_envs} in all: "
            "lower NUM_SEEDS or NUM_ENVS"
        )


def check_part(algorithm: str, part: str, factory: object) -> None:
    """Refuses the "network" or "loss" of another algorithm, which a copy with a changed algorithm would keep.

    Raises:
        ValueError: naming both.
    """
    owners = []
    for name, parts in ALGORITHMS.items():
        own = getattr(parts, f"make_{part}")
        # A loaded configuration holds the plain function; the table may hold gin's wrapper of it.
        if factory is own or factory is getattr(own, "__wrapped__", own):
            owners.append(name)
    if owners and algorithm not in owners:
        raise ValueError(
            f"train.algorithm is {algorithm!r}, but make_{part} is that of {owners[0]}: load the configuration with "
            f"ALGORITHM={algorithm!r}, or give make_network and make_loss too"
        )


def with_environment(config: TrainConfig) -> TrainConfig:
    """The configuration with the environment that its data set names, if it has none.

    Raises:
        ValueError: the two differ, neither names a known environment, or the data set cannot be read or used.
    """
    _check_dataset(config)
    recorded = None if config.dataset is None else environment_of(config.dataset)
    if config.env_name and recorded not in (None, config.env_name):
        raise ValueError(
            f"ENV_NAME is {config.env_name!r}, but {config.dataset} was recorded in {recorded!r}: leave ENV_NAME out"
        )
    if not config.env_name and recorded is None and config.dataset is not None:
        raise ValueError(f"{config.dataset} does not say which environment it is of: set ENV_NAME")
    if not config.env_name and recorded is not None:
        try:
            check_name(recorded)
        except ValueError as error:
            raise ValueError(f"{config.dataset} names the environment it was recorded in: {error}") from None
    check_name(config.env_name or recorded or "")
    return config if config.env_name or recorded is None else attrs.evolve(config, env_name=recorded)


def check_origin(config: TrainConfig, files: Iterable[str]) -> None:
    """Refuses a `train.init_from` without a checkpoint.

    Args:
        config: the configuration.
        files: the files it was read from. A resumed run, whose config.gin lies beside its checkpoints, needs none.

    Raises:
        ConfigError: naming the run.
    """
    if config.init_from is None or any((Path(file).parent / CHECKPOINTS).is_dir() for file in files):
        return
    try:
        checkpoint_dir(config.init_from)
    except LoadError as error:
        text = (
            f"train.init_from={config.init_from!r} must be the directory of a run with a checkpoint: {error}"
        )
        raise ConfigError(text) from None


def warn_without_updates(config: TrainConfig) -> None:
    """Logs a warning if a run that should learn ends before its first update."""
    ratio, each = config.updates_per_step, config.num_envs
    if ALGORITHMS[config.algorithm].offline or ratio == 0:
        return
    waits = max(config.init_random_steps, config.batch_size)
    # All environments step at once.
    first, end = (-(-steps // each) * each for steps in (waits, config.total_steps))
    if first < end and (ratio >= 1 or math.floor(end * ratio) > math.floor(first * ratio)):
        return
    logger.warning(
        "no update will be made in %d steps: the first waits for train.init_random_steps=%d and train.batch_size=%d "
        "steps, with train.updates_per_step=%s from then on; raise TOTAL_STEPS, or lower what it waits for",
        config.total_steps,
        config.init_random_steps,
        config.batch_size,
        ratio,
    )


def check_types(
    factories: Mapping[str, Callable[..., Any]],
    get_bindings: Callable[[str], Mapping[str, Any]],
    scopes: Iterable[str],
) -> None:
    """Refuses bindings of a wrong type and numbers that are not finite, which most factories do not check.

    Args:
        factories: by their names in gin files.
        get_bindings: `get_bindings(name) -> {parameter: value}` in force.
        scopes: scopes whose bindings count too, such as "foo/".

    Raises:
        ConfigError: naming the parameter.
    """
    scoped = {scope + name: factory for scope in ("", *scopes) for name, factory in factories.items()}
    for name, factory in reversed(scoped.items()):  # a schedule before the part that calls it
        hints = _hints(factory)
        for parameter, value in get_bindings(name).items():
            if not fits(value, hints[parameter]):
                expected = str(inspect.formatannotation(hints[parameter])).replace("collections.abc.", "")
                hint = f"; write @{value}" if isinstance(value, str) and value in factories else ""
                raise ConfigError(f"{name}.{parameter} must be {expected}, got {value!r}{hint}")
            if not finite(value):
                raise ConfigError(f"{name}.{parameter} must be finite, got {value!r}")
            if not within_64_bits(value):
                raise ConfigError(f"{name}.{parameter} must be a number of at most 64 bits, got {value!r}")


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """The types of a factory's parameters."""
    if isinstance(factory, type) and attrs.has(factory):
        hints = typing.get_type_hints(factory)
        return {field.alias or field.name: hints[field.name] for field in attrs.fields(factory)}
    return typing.get_type_hints(ReplayBuffer.__init__ if factory is ReplayBuffer else factory)


def check_choices(
    config: TrainConfig,
    choices: Mapping[str, Sequence[Callable[..., Any]]],
    factories: Collection[Callable[..., Any]],
) -> None:
    """Refuses a part of a run in the place of another, such as an optimizer as the encoder.

    Args:
        config: the configuration.
        choices: by the names of its fields, the factories that may stand there.
        factories: all of RLHive's; the user's own parts are not checked.

    Raises:
        ConfigError: naming what is allowed there.
    """
    for field, allowed in choices.items():
        part: Any = getattr(config, field)
        given = part and inspect.unwrap(part)  # without gin's wrapper
        if given in factories and given not in allowed:
            *first, last = (f"@{factory.__name__}" for factory in allowed)
            expected = f"{', '.join(first)} or {last}" if first else last
            raise ConfigError(f"train.{field} must be {expected}, got @{given.__name__}")


def check_discount(config: TrainConfig, loss: Mapping[str, Any], replay: Mapping[str, Any]) -> None:
    """Refuses a replay that sums the rewards of n steps with a discount other than the loss's.

    Args:
        config: the configuration; a loss of the user's own may take no `gamma`.
        loss: the loss's bindings in force.
        replay: the replay's.

    Raises:
        ConfigError: naming both.
    """
    algorithm, gamma = (
        ALGORITHMS[config.algorithm],
        inspect.signature(config.make_loss).parameters.get("gamma"),
    )
    if algorithm.offline or gamma is None or replay.get("n_step", 1) == 1:
        return
    # An algorithm of the user's own may have the loss of another.
    owner = next(name for name, parts in ALGORITHMS.items() if parts.make_loss is algorithm.make_loss)
    own, summed = loss.get("gamma", gamma.default), replay.get("gamma")
    if summed != own:
        raise ConfigError(
            f"{owner}_loss.gamma is {own} but replay.gamma, for the sums of replay.n_step rewards, is {summed}: "
            "they must be the same: bind both to %GAMMA, and set GAMMA alone"
        )


def check_given(config: TrainConfig) -> None:
    """Refuses bindings, for the user's own parts, of what the run itself gives: they would be ignored.

    Args:
        config: the configuration, whose parts hold their bindings by value.

    Raises:
        ConfigError: naming the setting.
    """
    for field, given in GIVEN.items():
        part = getattr(config, field)
        if isinstance(part, Bound) and (names := sorted(set(given) & set(part.settings))):
            kind = field.removeprefix("make_")
            raise ConfigError(
                f"{names[0]} of the {kind} cannot be set: the run itself gives it; leave it out"
            )


def _check_dataset(config: TrainConfig) -> None:
    offline = ALGORITHMS[config.algorithm].offline
    if offline and config.dataset is None:
        raise ValueError(
            f"{config.algorithm} learns from recorded episodes: name them, as in DATASET='demo.h5'"
        )
    recorded = 0 if config.dataset is None else round(config.demonstrations * config.batch_size)
    if not offline and (config.dataset is None) != (config.demonstrations == 0.0):
        raise ValueError(
            f"{config.algorithm} takes demonstrations by a data set and their share of each minibatch: give both "
            "train.dataset and train.demonstrations, or neither"
        )
    if not offline and config.dataset is not None and not 0 < recorded < config.batch_size:
        raise ValueError(f"train.demonstrations={config.demonstrations} gives a minibatch of one kind alone")
    if offline and (config.num_envs, config.updates_per_step, config.demonstrations) != (1, 1.0, 0.0):
        raise ValueError(
            f"{config.algorithm} steps no environment to learn, and counts updates: leave NUM_ENVS and "
            "train.updates_per_step at 1, and train.demonstrations at 0"
        )
