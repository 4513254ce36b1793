"""Configuration: gin files and bindings in, one frozen `TrainConfig` out. The only file that imports gin."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import validators as v

import gin
from rlhive import config_checks, config_unread
from rlhive.algorithms import ALGORITHMS
from rlhive.config_errors import ConfigError, explain_gin, explain_value
from rlhive.config_record import Record, recorded
from rlhive.core.converters import integers
from rlhive.core.optim import GradientTransformation, adam, cosine_schedule
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.replay import ReplayBuffer
from rlhive.core.settings import one_of
from rlhive.core.types import LossFn
from rlhive.envs.pixels import choose_pixels
from rlhive.paths import find_gin_file, gin_directory, has_compiler
from rlhive.policy_fn import encoders, exploration
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.encoders import Encoder, EncoderFactory, named_encoder
from rlhive.policy_fn.exploration import Exploration

_EXPLORATIONS = (
    exploration.gaussian,
    exploration.ornstein_uhlenbeck,
    exploration.epsilon_random,
    exploration.none,
)
_ENCODERS = (encoders.r3m, encoders.rrl, encoders.cnn, encoders.flat)
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
    **{f"{name}_network": algorithm.make_network for name, algorithm in ALGORITHMS.items()},
    **{f"{name}_loss": algorithm.make_loss for name, algorithm in ALGORITHMS.items()},
}
_OURS: dict[str, list[str]] = {  # what the run itself gives its parts, and no user
    "train": ["make_network", "make_loss", "make_replay", "choose_images", "record"],
    "images": ["name", "depth"],
    "replay": ["num_seeds", "num_envs", "device", "total_steps"],
    **{factory.__name__: ["action_low", "action_high"] for factory in _EXPLORATIONS},
    **{factory.__name__: ["pixels"] for factory in _ENCODERS},
    **{f"{name}_network": ["spec", "feature_dim"] for name in ALGORITHMS},
    **{f"{name}_loss": ["network"] for name in ALGORITHMS},
}
# What gin hands out and fills in; the functions themselves stay free of gin, so that they vmap, compile and pickle.
_CONFIGURED = {
    name: gin.external_configurable(factory, name, denylist=_OURS.get(name))
    for name, factory in _FACTORIES.items()
}


# More of these is a slip of the keyboard, and would take all memory before anything is said of it.
MAX_SEEDS = 4096
MAX_ENVIRONMENTS = 65_536  # of all seeds together
MAX_COUNT = 2**20  # of transitions in a minibatch, episodes of an evaluation, updates per step
# Half a minute of compiling is won back after some 5 000 updates on two cores, and after 1 500 on a GPU.
COMPILE_FROM_UPDATES, COMPILE_FROM_UPDATES_ON_GPU = 10_000, 2_000


def _at_least(minimum: float, kind: type | tuple[type, ...] = int) -> Any:
    return v.and_(v.instance_of(kind), v.not_(v.instance_of(bool)), v.ge(minimum))


def _part(algorithm: str, part: str) -> Any:
    """An algorithm's "network" or "loss": as gin configures it, or that of the table where gin does not know it."""
    # A wrong name has neither; its validator, which runs after this, says so.
    of_table = getattr(ALGORITHMS.get(str(algorithm)), f"make_{part}", None)
    return _CONFIGURED.get(f"{algorithm}_{part}", of_table)


def _id(config: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(
            f"{attribute.name} must be an id of RoboHive, got {value!r}; environments of one's own are stepped by "
            "VectorEnv(factory)"
        )


@attrs.frozen(kw_only=True)
class TrainConfig:
    """Everything a training run needs, checked; counts of steps are environment steps per seed.

    An algorithm's parts are settled when it is loaded: `attrs.evolve` to another algorithm takes its parts too.

    Attributes:
        env_name: RoboHive id; empty for the one that the data set names.
        algorithm: a name of `rlhive.algorithms.ALGORITHMS`.
        seed: first seed, where none are named.
        num_seeds: seeds trained side by side, where none are named: `seed, seed + 1, ...`.
        named_seeds: training seeds, which need not be in a row, instead of `seed` and `num_seeds`; given as `seeds`.
        num_envs: environments per seed.
        total_steps: length of the run; of algorithms that learn from a data set alone, in gradient updates.
        device: torch device of the learner, such as "cpu" or "cuda".
        init_random_steps: steps with uniformly random actions before the policy acts and learns.
        updates_per_step: gradient updates per environment step; a fraction such as 0.5 is an update every other step.
        batch_size: transitions per update and seed.
        tau: fraction of the new parameters in the target's update.
        evaluate_every: steps between evaluations.
        evaluation_episodes: episodes of each evaluation, with the deterministic policy.
        target_success: a seed whose evaluation reaches this success rate, in (0, 1], stops; None stops none.
        checkpoint_every: steps between checkpoints.
        compile: compile the update by Inductor, and the action where that leaves seeds their bits; None does where it
            pays: with a C++ compiler at hand, in runs of 10 000 updates or more, on a GPU of 2 000.
        log_every: steps between rows of training metrics.
        video_every: evaluations between videos of the first seed's policy; None or 0 films none.
        video_cameras: of the videos; none for those of the policy, or else the model's first one.
        loggers: TorchRL loggers beside metrics.csv: "csv", "tensorboard", "wandb".
        wandb: settings of the "wandb" logger, such as {"project": "robots"}.
        num_workers: processes that step the environments, at most one for each; None takes one per core but one, the
            learner's, and with images 4 at most.
        optimizer: `optimizer() -> opt`.
        exploration: `exploration(action_low, action_high) -> Exploration`.
        encoder: `encoder(pixel_spec) -> Encoder` of the images, such as `@r3m`, `@rrl` or `@cnn`; None takes the one in
            the id of the environment, and R3M where that has none.
        make_network: `make_network(env_spec) -> network`; the algorithm's own, as configured.
        make_loss: `make_loss(network) -> loss_fn`; likewise.
        make_replay: `make_replay(num_seeds=, num_envs=, device=, total_steps=) -> ReplayBuffer`; likewise.
        choose_images: `choose_images(env_name) -> PixelSpec | None`; likewise.
        dataset: path of recorded episodes to learn from: a Trace, a RoboSet or a Minari data set.
        skip_damaged: leave damaged trials out, and say how many, instead of refusing the data set.
        demonstrations: fraction of each minibatch drawn from the data set, in (0, 1), where the algorithm learns from
            its own steps too; 0 without a data set.
        init_from: directory of a run to begin with, as `rlhive.algorithms.INIT_KEYS` says; its normaliser comes along.
        record: what `load_config` made it of; None where it did not.
    """

    env_name: str = attrs.field(validator=_id)
    algorithm: str = attrs.field(default="sac", validator=one_of(ALGORITHMS))
    seed: int = attrs.field(default=1, validator=_at_least(0))
    num_seeds: int = attrs.field(default=1, validator=v.and_(_at_least(1), v.le(MAX_SEEDS)))
    named_seeds: tuple[int, ...] = attrs.field(default=(), converter=integers, alias="seeds")
    num_envs: int = attrs.field(default=1, validator=_at_least(1))
    total_steps: int = attrs.field(default=20_000, validator=_at_least(1))
    device: str = attrs.field(default="cpu", validator=v.instance_of(str))
    init_random_steps: int = attrs.field(default=1000, validator=_at_least(0))
    updates_per_step: float = attrs.field(
        default=1.0, validator=v.and_(_at_least(0, (int, float)), v.le(MAX_COUNT))
    )
    batch_size: int = attrs.field(default=256, validator=v.and_(_at_least(1), v.le(MAX_COUNT)))
    tau: float = attrs.field(default=0.005, validator=v.and_(v.gt(0.0), v.le(1.0)))
    evaluate_every: int = attrs.field(default=2000, validator=_at_least(1))
    evaluation_episodes: int = attrs.field(default=20, validator=v.and_(_at_least(1), v.le(MAX_COUNT)))
    target_success: float | None = attrs.field(
        default=None, validator=v.optional(v.and_(_at_least(0, (int, float)), v.gt(0), v.le(1)))
    )
    checkpoint_every: int = attrs.field(default=10_000, validator=_at_least(1))
    compile: bool | None = attrs.field(default=None, validator=v.optional(v.instance_of(bool)))
    log_every: int = attrs.field(default=500, validator=_at_least(1))
    video_every: int | None = attrs.field(default=None, validator=v.optional(_at_least(0)))
    video_cameras: tuple[str, ...] = attrs.field(
        default=(), converter=tuple, validator=v.deep_iterable(v.instance_of(str))
    )
    loggers: tuple[str, ...] = attrs.field(
        default=("tensorboard",), converter=tuple, validator=v.deep_iterable(v.instance_of(str))
    )
    wandb: dict[str, Any] | None = attrs.field(default=None, validator=v.optional(v.instance_of(dict)))
    num_workers: int | None = attrs.field(default=None, validator=v.optional(_at_least(0)))
    optimizer: Callable[[], GradientTransformation] = attrs.field(
        default=_CONFIGURED["adam"], validator=v.is_callable()
    )
    exploration: Callable[..., Exploration] = attrs.field(
        default=_CONFIGURED["none"], validator=v.is_callable()
    )
    encoder: EncoderFactory | None = attrs.field(default=None, validator=v.optional(v.is_callable()))
    make_network: Callable[..., ActorCritic] = attrs.field(
        default=attrs.Factory(lambda self: _part(self.algorithm, "network"), takes_self=True)
    )
    make_loss: Callable[..., LossFn] = attrs.field(
        default=attrs.Factory(lambda self: _part(self.algorithm, "loss"), takes_self=True)
    )
    make_replay: Callable[..., ReplayBuffer] = attrs.field(default=_CONFIGURED["replay"])
    choose_images: Callable[..., PixelSpec | None] = attrs.field(default=_CONFIGURED["images"])
    dataset: str | None = attrs.field(default=None, validator=v.optional(v.instance_of(str)))
    skip_damaged: bool = attrs.field(default=False, validator=v.instance_of(bool))
    demonstrations: float = attrs.field(default=0.0, validator=v.and_(_at_least(0, (int, float)), v.lt(1)))
    init_from: str | None = attrs.field(default=None, validator=v.optional(v.instance_of(str)))
    record: Record | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds `[S]`."""
        return self.named_seeds or tuple(range(self.seed, self.seed + self.num_seeds))

    @property
    def on_gpu(self) -> bool:
        """Whether the learner is on a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def compiles(self) -> bool:
        """Whether the update is compiled; it depends on nothing but the configuration and the machine."""
        if self.compile is None:
            least = COMPILE_FROM_UPDATES_ON_GPU if self.on_gpu else COMPILE_FROM_UPDATES
            return has_compiler() and self.total_steps * self.updates_per_step >= least
        return self.compile

    @property
    def pixels(self) -> PixelSpec | None:
        """The images of the environment, None without any."""
        return self.choose_images(self.env_name)

    def make_encoder(self) -> Encoder | None:
        """The encoder of the images, None without any; its weights are looked for here.

        Raises:
            ValueError: an encoder without images, or no such encoder or weights.
        """
        pixels = self.pixels
        if pixels is None:
            if self.encoder is not None:
                raise ValueError(
                    f"train.encoder needs images, and {self.env_name} has none of its own: set "
                    "images.from_pixels=True, images.cameras and images.image_size, or take an id with _v2d"
                )
            return None
        if self.encoder is not None:
            return self.encoder(pixels)
        name, settings = named_encoder(self.env_name)
        return _CONFIGURED[name](pixels, **settings)

    def __attrs_post_init__(self) -> None:
        if self.named_seeds and (self.seed, self.num_seeds) != (1, 1):
            raise ValueError(
                "train.seeds stands instead of train.seed and train.num_seeds: give it, or those"
            )
        config_checks.check_seeds(self.seeds, self.num_envs, MAX_SEEDS, MAX_ENVIRONMENTS)
        for part in ("network", "loss"):
            factory = getattr(self, f"make_{part}")
            factory = factory.factory if isinstance(factory, _Bound) else inspect.unwrap(factory)
            config_checks.check_part(self.algorithm, part, factory)


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
        ConfigError: an unknown name, parameter, macro, environment or value, in one line.
    """
    files = [files] if isinstance(files, str | Path) else files
    bindings = [bindings] if isinstance(bindings, str) else bindings
    gin.clear_config()
    paths = [str(find_gin_file(str(name))) for name in files]
    for path in paths:
        _parse(path, gin.parse_config_file, path)
    for binding in bindings:
        _parse(f"--gin_bindings={binding}", gin.parse_config, binding)
    config_unread.check_macros(config_text(), bindings)
    scopes = config_unread.scopes_in_use(config_text())
    try:
        config_checks.check_types({**_FACTORIES, "train": TrainConfig}, gin.get_bindings, scopes)
        config = config_checks.with_environment(_made())
        config_checks.check_choices(config, _CHOICES, _FACTORIES.values())
        config_checks.check_discount(config.algorithm, _FACTORIES, gin.get_bindings)
        config_checks.check_origin(config, paths)
        config_checks.dry_build(config)
        config_checks.warn_without_updates(config)
    except (ValueError, TypeError) as error:
        raise ConfigError(explain_value(error)) from None
    except RecursionError:
        raise ConfigError("a reference with (), such as @cosine_schedule(), leads back to itself") from None
    config_unread.check_seeds(config, bindings)
    config_unread.check_parts(
        config, bindings, operative_config_text(), gin.get_bindings("replay"), _FACTORIES
    )
    return recorded(_settled(config), config_text(), operative_config_text())


def configured_seeds(file: str | Path) -> tuple[int, ...]:
    """The training seeds of a config.gin, of which nothing else need hold any more, such as where its data set is.

    Raises:
        ConfigError: it cannot be parsed.
    """
    gin.clear_config()
    _parse(str(file), gin.parse_config_file, str(file))
    try:
        return _made().seeds
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: {explain_value(error)}") from None


def _made() -> TrainConfig:
    """What gin makes of the bindings in force; named seeds stand instead of those of the run that they are added to."""
    named = gin.get_bindings("train").get("seeds")
    return _CONFIGURED["train"](**({"seed": 1, "num_seeds": 1} if named else {}))


@attrs.frozen
class _Bound:
    """A factory with its settings, by value."""

    factory: Callable[..., Any]
    settings: dict[str, Any]

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.factory(*args, **{**self.settings, **given})


def _settled(config: TrainConfig) -> TrainConfig:
    """The configuration whose parts keep the bindings now in force, whatever is loaded after."""
    settled: dict[str, Any] = {
        field.name: _bound(part)
        for field in attrs.fields(TrainConfig)
        if callable(part := getattr(config, field.name))
    }
    if config.encoder is None and config.pixels is not None:
        name, settings = named_encoder(config.env_name)
        settled["encoder"] = _Bound(_FACTORIES[name], gin.get_bindings(name) | settings)
    return attrs.evolve(config, **settled)


def _bound(part: Callable[..., Any]) -> Callable[..., Any]:
    """A part with the bindings now in force, or itself where gin does not configure it, or in a scope alone."""
    for name, configured in _CONFIGURED.items():
        if part is configured:
            return _Bound(_FACTORIES[name], gin.get_bindings(name))
    if not hasattr(part, "__wrapped__"):
        return part
    try:
        return _Bound(inspect.unwrap(part), gin.get_bindings(part))
    except ValueError:  # some other wrapper than gin's
        return part


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
    """The bindings and defaults that what ran so far has used."""
    return gin.operative_config_str(max_line_length=100)


def _parameters_of(part: str) -> list[str]:
    """What gin files may set of a part, as gin names it; it may be one of the user's own."""
    own = inspect.signature(gin.get_configurable(part)).parameters
    return _PARAMETERS.get(part.split(".")[-1], list(own))


def _parse(source: str, parse: Callable[[str], Any], text: str) -> None:
    try:
        with _no_log():
            parse(text)
    except (ValueError, SyntaxError, NameError, OSError, ImportError) as error:
        raise ConfigError(f"{source}: {explain_gin(error, sorted(_PARAMETERS), _parameters_of)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: includes itself") from None
