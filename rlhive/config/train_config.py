"""What a training run needs: one frozen, checked `TrainConfig`. Free of gin, which `rlhive.config` makes it of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from attrs import validators as v

from rlhive.algorithms import ALGORITHMS
from rlhive.config import checks
from rlhive.config.record import Bound, Record
from rlhive.core.converters import integers, strings
from rlhive.core.optim import GradientTransformation, adam
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.replay import ReplayBuffer
from rlhive.core.settings import one_of
from rlhive.core.types import LossFn
from rlhive.envs.pixels import choose_pixels
from rlhive.machine import has_compiler
from rlhive.policy_fn import exploration
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.encoders import Encoder, EncoderFactory
from rlhive.policy_fn.exploration import Exploration

# A larger number is a typing error, and would fill the memory before any error message.
MAX_SEEDS = 4096
MAX_ENVIRONMENTS = 65_536  # of all seeds together
MAX_COUNT = 2**20  # of transitions in a minibatch, episodes of an evaluation, updates per step
# Half a minute of compiling is won back after some 5 000 updates on two cores, and after 1 500 on a GPU.
COMPILE_FROM_UPDATES, COMPILE_FROM_UPDATES_ON_GPU = 10_000, 2_000


def _at_least(minimum: float, kind: type | tuple[type, ...] = int) -> Any:
    return v.and_(v.instance_of(kind), v.not_(v.instance_of(bool)), v.ge(minimum))


def _part(algorithm: str, part: str) -> Any:
    """An algorithm's "make_network" or "make_loss"."""
    # A wrong name has neither; its validator, which runs after this, says so.
    return getattr(ALGORITHMS.get(str(algorithm)), part, None)


def _id(config: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(
            f"{attribute.name} must be an id of RoboHive, got {value!r}; environments of one's own are stepped by "
            "VectorEnv(factory)"
        )


@attrs.frozen(kw_only=True)
class TrainConfig:
    """Everything a training run needs, checked; counts of steps are environment steps per seed.

    The parts are fixed when the configuration is loaded: to change the algorithm by `attrs.evolve`, give its parts too.

    Attributes:
        env_name: RoboHive id; empty for the one that the data set names.
        algorithm: a name of `rlhive.algorithms.ALGORITHMS`.
        seed: first seed, if none are named.
        num_seeds: seeds trained side by side, if none are named: `seed, seed + 1, ...`.
        named_seeds: training seeds one by one, instead of `seed` and `num_seeds`; given as `seeds`.
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
        compile: compile the update with Inductor, and the action where seeds stay equal bit for bit; None: where it
            pays: with a C++ compiler, in runs of at least 10 000 updates, on a GPU at least 2 000.
        log_every: steps between rows of training metrics; none before the first update, while actions are random.
        video_every: evaluations between videos of the first seed's policy; None or 0 films none.
        video_cameras: of the videos; by default those of the policy, or else the model's first one.
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
        init_from: directory of a run whose normaliser and parameters, by `rlhive.algorithms.INIT_KEYS`, this one starts
            with.
        record: the texts that `load_config` made it of; None if it did not.
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
        default=(), converter=strings, validator=v.deep_iterable(v.instance_of(str))
    )
    loggers: tuple[str, ...] = attrs.field(
        default=("tensorboard",), converter=strings, validator=v.deep_iterable(v.instance_of(str))
    )
    wandb: dict[str, Any] | None = attrs.field(default=None, validator=v.optional(v.instance_of(dict)))
    num_workers: int | None = attrs.field(default=None, validator=v.optional(_at_least(0)))
    optimizer: Callable[[], GradientTransformation] = attrs.field(default=adam, validator=v.is_callable())
    exploration: Callable[..., Exploration] = attrs.field(default=exploration.none, validator=v.is_callable())
    encoder: EncoderFactory | None = attrs.field(default=None, validator=v.optional(v.is_callable()))
    make_network: Callable[..., ActorCritic] = attrs.field(
        default=attrs.Factory(lambda self: _part(self.algorithm, "make_network"), takes_self=True)
    )
    make_loss: Callable[..., LossFn] = attrs.field(
        default=attrs.Factory(lambda self: _part(self.algorithm, "make_loss"), takes_self=True)
    )
    make_replay: Callable[..., ReplayBuffer] = attrs.field(default=ReplayBuffer)
    choose_images: Callable[..., PixelSpec | None] = attrs.field(default=choose_pixels)
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
        """Whether the update is compiled; it depends only on the configuration and the machine."""
        if self.compile is None:
            return has_compiler() and self.total_steps * self.updates_per_step >= self._compile_from
        return self.compile

    @property
    def _compile_from(self) -> int:
        return COMPILE_FROM_UPDATES_ON_GPU if self.on_gpu else COMPILE_FROM_UPDATES

    def describe_compiling(self) -> str:
        """Whether updates are compiled, and why, for the log; compiled updates round differently."""
        if self.compile is not None:
            why = "as train.compile says"
        elif not has_compiler():
            why = "there is no C++ compiler"
        else:
            why = f"the run has {'at least' if self.compiles else 'fewer than'} {self._compile_from} updates"
        return f"updates are {'' if self.compiles else 'not '}compiled: {why}"

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
        if self.encoder is None:
            raise ValueError(
                f"{self.env_name} has images and the configuration no encoder: load it by load_config, which takes the "
                "one in the id, or give one"
            )
        return self.encoder(pixels)

    def __attrs_post_init__(self) -> None:
        if self.named_seeds and (self.seed, self.num_seeds) != (1, 1):
            raise ValueError("train.seeds replaces train.seed and train.num_seeds: give only one of the two")
        checks.check_seeds(self.seeds, self.num_envs, MAX_SEEDS, MAX_ENVIRONMENTS)
        for part in ("network", "loss"):
            factory = getattr(self, f"make_{part}")
            factory = factory.factory if isinstance(factory, Bound) else factory
            checks.check_part(self.algorithm, part, factory)
