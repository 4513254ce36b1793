"""Configuration: gin files and bindings in, one `TrainConfig` out. The only file that imports gin."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

import gin
from rlhive.algorithms import ALGORITHMS
from rlhive.config import checks, unread
from rlhive.config.build import dry_build
from rlhive.config.errors import ConfigError, explain_gin, explain_value, place
from rlhive.config.lock import lock_bindings
from rlhive.config.record import Bound, recorded
from rlhive.config.train_config import TrainConfig
from rlhive.core.optim import adam, cosine_schedule
from rlhive.core.replay import ReplayBuffer
from rlhive.envs.pixels import choose_pixels
from rlhive.losses_fn import make_bc_loss, make_iql_loss, make_sac_loss, make_td3_bc_loss
from rlhive.paths import find_gin_file, gin_directory
from rlhive.policy_fn import encoders, exploration
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.encoders import named_encoder
from rlhive.policy_fn.offline_network import bc_network, iql_network, td3_bc_network

_EXPLORATIONS = (
    exploration.gaussian,
    exploration.ornstein_uhlenbeck,
    exploration.epsilon_random,
    exploration.none,
)
_ENCODERS = (encoders.r3m, encoders.rrl, encoders.cnn, encoders.flat)
# Those of RLHive alone: parts of the user's own become names of gin files only where the user says so.
_NETWORKS: dict[str, Callable[..., Any]] = {
    "sac_network": actor_critic,
    "bc_network": bc_network,
    "iql_network": iql_network,
    "td3_bc_network": td3_bc_network,
}
_LOSSES: dict[str, Callable[..., Any]] = {
    "sac_loss": make_sac_loss,
    "bc_loss": make_bc_loss,
    "iql_loss": make_iql_loss,
    "td3_bc_loss": make_td3_bc_loss,
}
_CHOICES: dict[str, Sequence[Callable[..., Any]]] = {
    "optimizer": (adam,),
    "exploration": _EXPLORATIONS,
    "encoder": _ENCODERS,
}
_FACTORIES: dict[str, Callable[..., Any]] = {
    "adam": adam,
    "cosine_schedule": cosine_schedule,
    "replay": ReplayBuffer,
    "images": choose_pixels,
    **{factory.__name__: factory for factory in (*_EXPLORATIONS, *_ENCODERS)},
    **_NETWORKS,
    **_LOSSES,
}
_OURS: dict[str, list[str]] = {  # what the run itself gives its parts, and no binding may
    "train": ["make_network", "make_loss", "make_replay", "choose_images", "record"],
    "images": ["name", "depth"],
    "replay": ["num_seeds", "num_envs", "device", "total_steps"],
    **{factory.__name__: checks.GIVEN["exploration"] for factory in _EXPLORATIONS},
    **{factory.__name__: checks.GIVEN["encoder"] for factory in _ENCODERS},
    **dict.fromkeys(_NETWORKS, checks.GIVEN["make_network"]),
    **dict.fromkeys(_LOSSES, checks.GIVEN["make_loss"]),
}
# gin's wrappers; the functions themselves stay free of gin, so that they vmap, compile and pickle.
_CONFIGURED = {
    name: gin.external_configurable(factory, name, denylist=_OURS.get(name))
    for name, factory in _FACTORIES.items()
}
_CONFIGURED["train"] = gin.external_configurable(TrainConfig, "train", denylist=_OURS["train"])
_PARAMETERS = {
    name: [one for one in inspect.signature(made).parameters if one not in _OURS.get(name, ())]
    for name, made in {**_FACTORIES, "train": TrainConfig}.items()
}


gin.add_config_file_search_path(str(gin_directory()))


def load_config(files: str | Path | Sequence[str | Path], bindings: str | Sequence[str] = ()) -> TrainConfig:
    """Parses gin files and then bindings (later ones win) and checks everything that can be checked before a run.

    Args:
        files: paths, or names of shipped files such as "sac_gaussian.gin", or one of them.
        bindings: gin bindings, or one, such as "TOTAL_STEPS=1000" or "adam.learning_rate=3e-4".

    Raises:
        ValueError: an unknown file.
        ConfigError: an unknown name, parameter, macro, environment or value, in one line; or another thread has been
            loading for a minute.
    """
    files = [files] if isinstance(files, str | Path) else files
    bindings = [bindings] if isinstance(bindings, str) else bindings
    with lock_bindings():
        gin.clear_config()
        paths = [str(find_gin_file(str(name))) for name in files]
        for path in paths:
            _parse(path, gin.parse_config_file, path)
        for binding in bindings:
            _parse(f"--gin_bindings={binding}", gin.parse_config, binding)
        unread.check_macros(config_text(), bindings)
        scopes = unread.scopes_in_use(config_text())
        try:
            checks.check_types({**_FACTORIES, "train": TrainConfig}, gin.get_bindings, scopes)
            config = _with_encoder(checks.with_environment(_made()))
            checks.check_choices(config, _CHOICES, _FACTORIES.values())
            loss = gin.get_bindings(config.make_loss) if _is_of_gin(config.make_loss) else {}
            checks.check_discount(config, loss, gin.get_bindings("replay"))
            checks.check_origin(config, paths)
            dry_build(config)
            checks.warn_without_updates(config)
            settled = _settled(config)
            checks.check_given(settled)
        except (ValueError, TypeError) as error:
            raise ConfigError(explain_value(error)) from None
        except RecursionError:
            raise ConfigError("a reference, such as @cosine_schedule(), leads back to itself") from None
        unread.check_seeds(config, bindings)
        unread.check_parts(config, bindings, operative_config_text(), gin.get_bindings("replay"), _FACTORIES)
        return recorded(settled, config_text(), operative_config_text())


def configured_seeds(file: str | Path) -> tuple[int, ...]:
    """The training seeds of a config.gin, of which nothing else is checked, such as whether its data set still exists.

    Raises:
        ConfigError: it cannot be parsed.
    """
    with lock_bindings():
        gin.clear_config()
        _parse(str(file), gin.parse_config_file, str(file))
        try:
            return _made().seeds
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{file}: {explain_value(error)}") from None


def _made() -> TrainConfig:
    """The configuration that gin makes of the bindings in force; named seeds replace SEED and NUM_SEEDS."""
    bound = gin.get_bindings("train")
    given: dict[str, Any] = {"seed": 1, "num_seeds": 1} if bound.get("seeds") else {}
    parts = {"optimizer": "adam", "exploration": "none", "make_replay": "replay", "choose_images": "images"}
    given |= {field: _CONFIGURED[part] for field, part in parts.items() if field not in bound}
    algorithm = bound.get("algorithm", attrs.fields(TrainConfig).algorithm.default)
    own = ALGORITHMS.get(str(algorithm))
    # An algorithm of the user's own may keep some of these.
    for name, factory in (_NETWORKS | _LOSSES).items():
        given |= {
            field: _CONFIGURED[name]
            for field in ("make_network", "make_loss")
            if getattr(own, field, None) is factory
        }
    return _CONFIGURED["train"](**given)


def _with_encoder(config: TrainConfig) -> TrainConfig:
    """The configuration with the encoder that its environment names, if it has none."""
    if config.encoder is not None or config.pixels is None:
        return config
    name, settings = named_encoder(config.env_name)
    return attrs.evolve(config, encoder=functools.partial(_CONFIGURED[name], **settings))


def _is_of_gin(part: Callable[..., Any]) -> bool:
    """Whether a function is gin's wrapper of another, and not some other wrapper."""
    try:
        return hasattr(part, "__wrapped__") and gin.get_configurable(part) is part
    except ValueError:
        return False


def _settled(config: TrainConfig) -> TrainConfig:
    """The configuration with parts that keep the bindings now in force, whatever is loaded later."""
    named = gin.get_bindings("train", resolve_references=False)
    settled: dict[str, Any] = {
        field.name: _bound(part) if named.get(field.name) is None else _kept(named[field.name])
        for field in attrs.fields(TrainConfig)
        if callable(part := getattr(config, field.name))
    }
    return attrs.evolve(config, **settled)


def _bound(part: Any) -> Any:
    """A part that no binding names, with its bindings now in force; unchanged if gin does not configure it."""
    if isinstance(part, functools.partial):
        named = _bound(part.func)
        return (
            attrs.evolve(named, settings=named.settings | part.keywords) if isinstance(named, Bound) else part
        )
    for name, configured in _CONFIGURED.items():
        if part is configured:
            return Bound(_FACTORIES[name], _settings(name))
    return Bound(part.__wrapped__, _settings(part)) if _is_of_gin(part) else part


def _settings(part: str | Callable[..., Any]) -> dict[str, Any]:
    return {name: _kept(value) for name, value in gin.get_bindings(part, resolve_references=False).items()}


def _kept(value: Any) -> Any:
    """A bound value with each reference replaced by its part and that part's bindings now in force."""
    if isinstance(value, dict):
        return {key: _kept(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_kept(one) for one in value)
    if not isinstance(value, gin.config.ConfigurableReference):
        return value
    factory, scope = value.configurable.wrapped, value.scopes or gin.current_scope()
    with gin.config_scope(scope):
        settings = _settings(value.configurable.selector)
        if value.evaluate:
            return factory(**settings)
    return Bound(functools.partial(_in_scope, scope, factory) if scope else factory, settings)


def _in_scope(scope: list[str], factory: Callable[..., Any], *args: Any, **given: Any) -> Any:
    """Calls a factory in a scope, so that parts it calls have the scope's bindings."""
    with gin.config_scope(scope):
        return factory(*args, **given)


@contextlib.contextmanager
def _no_log() -> Iterator[None]:
    # For an included file gin logs an error for each directory that does not have it, then finds it in the next.
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def config_text() -> str:
    """All bindings in force, as a gin file that gives the same configuration."""
    return gin.config_str(max_line_length=100)


def operative_config_text() -> str:
    """The bindings and defaults used so far."""
    return gin.operative_config_str(max_line_length=100)


def _parameters_of(part: str) -> list[str]:
    """The parameters of a part that gin files may set; the part may be the user's own."""
    own = inspect.signature(gin.get_configurable(part)).parameters
    return _PARAMETERS.get(part.split(".")[-1], list(own))


def _parse(source: str, parse: Callable[[str], Any], text: str) -> None:
    try:
        with _no_log():
            parse(text)
    except (ValueError, SyntaxError, NameError, OSError, ImportError, tokenize.TokenError) as error:
        why = explain_gin(error, sorted(_PARAMETERS), _parameters_of)
        raise ConfigError(f"{place(source, error)}: {why}") from None
    except RecursionError:
        raise ConfigError(f"{source}: includes itself") from None
