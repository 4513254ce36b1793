"""The tanh-normal actor and the networks of actor-critic algorithms, as pure functions over one parameter tree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from attrs import validators as v
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.converters import floats, integers
from rlhive.core.env_spec import EnvSpec
from rlhive.core.keys import as_generator
from rlhive.core.settings import one_of
from rlhive.core.tree import stack_seeds
from rlhive.core.types import Params
from rlhive.policy_fn.mlp import ACTIVATIONS, apply_mlp, apply_mlp_columns, init_mlp

LOG_SCALE_MIN, LOG_SCALE_MAX = -20.0, 2.0


def tanh_normal_sample(
    loc: Tensor, scale: Tensor, noise: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Draws from a normal squashed by tanh into `[low, high]`, reparametrised (Haarnoja 2018, appendix C).

    Args:
        loc: mean before the tanh, `[..., A]`.
        scale: standard deviation before the tanh, `[..., A]`.
        noise: standard normal numbers, `[..., A]`.
        low: lower limits, `[A]`.
        high: upper limits, `[A]`.

    Returns:
        The action `[..., A]` and its log-probability `[...]`, finite even if the action rounds to its limit.
    """
    latent = loc + scale * noise
    log_prob = log_density(noise, scale.log()) - _log_squash_slope(latent, low, high)
    return tanh_normal_mode(latent, low, high), log_prob.sum(-1)


def tanh_normal_log_prob(action: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log-probability `[...]` of a given action `[..., A]`; an action at its limit counts as the nearest inside."""
    unit = (2.0 * action - (high + low)) / (high - low)
    edge = 1.0 - torch.finfo(action.dtype).eps
    latent = torch.atanh(unit.clamp(-edge, edge))
    return (log_density((latent - loc) / scale, scale.log()) - _log_squash_slope(latent, low, high)).sum(-1)


def tanh_normal_mode(loc: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The deterministic action `[..., A]`: the mean, squashed by tanh into `[low, high]`."""
    # Rounding may leave the interval by one ulp, which a robot's limit check would refuse; NaN stays NaN.
    return torch.clamp(0.5 * (high + low) + 0.5 * (high - low) * torch.tanh(loc), low, high)


def log_density(noise: Tensor, log_scale: Tensor) -> Tensor:
    """Elementwise log-density of a normal at `loc + exp(log_scale) * noise`; `noise` and `log_scale` of one shape."""
    return -0.5 * noise.square() - log_scale - 0.5 * math.log(2.0 * math.pi)


def scale_of(log_scale: Tensor) -> Tensor:
    """The standard deviation for a log_scale, which is limited to [LOG_SCALE_MIN, LOG_SCALE_MAX] first; same shape."""
    return log_scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX).exp()


def _log_squash_slope(latent: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + exp(-2|u|))), which does not lose its digits where tanh saturates.
    size = latent.abs()
    return 2.0 * (math.log(2.0) - size - torch.exp(-2.0 * size).log1p()) + (0.5 * (high - low)).log()


def _dist(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[B, A]` of the last layer's `[2 A, B]`."""
    loc, log_scale = columns.chunk(2, dim=-2)
    return loc.mT, scale_of(log_scale).mT


@attrs.frozen
class ActorCritic:
    """Networks of a continuous actor and `num_critics` state-action critics; pure functions, no parameters inside.

    Attributes:
        observation_dim: O.
        action_low: lower limit of each action.
        action_high: upper limit of each action.
        hidden_sizes: widths of the hidden layers, of the actor and of each critic.
        activation: a name of `rlhive.policy_fn.mlp.ACTIVATIONS`.
        actor_layer_norm: LayerNorm in the actor's hidden layers.
        critic_layer_norm: LayerNorm in the critics' hidden layers (Ball 2023, section 4.2).
        num_critics: N.
        init_alpha: initial entropy temperature.
    """

    observation_dim: int = attrs.field(validator=v.ge(1))
    action_low: tuple[float, ...] = attrs.field(converter=floats, validator=v.min_len(1))
    action_high: tuple[float, ...] = attrs.field(converter=floats, validator=v.min_len(1))
    hidden_sizes: tuple[int, ...] = attrs.field(
        default=(256, 256),
        converter=integers,
        validator=[v.max_len(100), v.deep_iterable(v.and_(v.instance_of(int), v.ge(1)))],
    )
    activation: str = attrs.field(default="relu", validator=one_of(ACTIVATIONS))
    actor_layer_norm: bool = attrs.field(default=False, validator=v.instance_of(bool))
    critic_layer_norm: bool = attrs.field(default=True, validator=v.instance_of(bool))
    num_critics: int = attrs.field(default=2, validator=v.and_(v.instance_of(int), v.ge(1), v.le(100)))
    init_alpha: float = attrs.field(default=1.0, validator=v.and_(v.gt(0.0), v.lt(math.inf)))

    def __attrs_post_init__(self) -> None:
        low, high = self.action_low, self.action_high
        if len(low) != len(high) or not all(least < most for least, most in zip(low, high, strict=True)):
            raise ValueError(
                f"each of action_low must be below its own of action_high, got {list(low)} and {list(high)}"
            )

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)

    @property
    def chunk_size(self) -> int:
        """K, the number of actions planned at once."""
        return 1

    def init(self, key: int | Generator) -> Params:
        """Draws `{"actor", "critic" [N, ...], "log_alpha" []}` from a seed or CPU generator, each critic separately."""
        key = as_generator(key)
        critic_sizes = (self.observation_dim + self.action_dim, *self.hidden_sizes, 1)
        critics = [
            init_mlp(key, critic_sizes, layer_norm=self.critic_layer_norm) for _ in range(self.num_critics)
        ]
        return TensorDict(
            {
                "actor": self.init_actor(key),
                "critic": stack_seeds(critics).auto_batch_size_(0),
                "log_alpha": torch.tensor(math.log(self.init_alpha), dtype=torch.float32),
            },
            batch_size=[],
        )

    def init_actor(self, key: Generator) -> Params:
        """Draws the actor's tree, which is all that a deployed policy needs."""
        actor_sizes = (self.observation_dim, *self.hidden_sizes, 2 * self.action_dim)
        return init_mlp(key, actor_sizes, layer_norm=self.actor_layer_norm)

    def sample(self, actor: Params, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action `[B, A]` and log-probability `[B]` for normalised observations and standard normal noise `[B, A]`.

        The action is transposed in memory, which makes the loss's loops over the minibatch fast.

        Raises:
            ValueError: the observations are not `[B, O]`.
        """
        self._check_minibatch("sample", observation)
        loc, scale = _dist(apply_mlp_columns(actor, observation, activation=self.activation))
        return tanh_normal_sample(loc, scale, noise, *self.limits(loc))

    def mode(self, actor: Params, observation: Tensor) -> Tensor:
        """Deterministic action `[B, A]` for normalised observations `[B, O]`."""
        loc = apply_mlp(actor, observation, activation=self.activation)[..., : self.action_dim]
        return tanh_normal_mode(loc, *self.limits(loc))

    def plan(self, actor: Params, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next K actions `[B, K, A]`: the deterministic ones, or those of standard normal noise `[B, K, A]`."""
        if noise is None:
            action = self.mode(actor, observation)
        else:
            action, _ = self.sample(actor, observation, noise.squeeze(-2))
        return action.contiguous().unsqueeze(-2)

    def value(self, critic: Params, observation: Tensor, action: Tensor) -> Tensor:
        """State-action values `[N, B]` for normalised observations `[B, O]` and actions `[B, A]`.

        Raises:
            ValueError: the observations are not `[B, O]`.
        """
        self._check_minibatch("value", observation)
        # Transposed in memory, as the actor's actions are.
        columns = torch.cat([observation.mT, action.mT], dim=-2)
        x = columns.expand(self.num_critics, *columns.shape).mT
        return apply_mlp(critic, x, activation=self.activation).squeeze(-1)

    def _check_minibatch(self, method: str, observation: Tensor) -> None:
        if observation.dim() != 2:
            raise ValueError(
                f"{method} takes a minibatch of observations, [B, {self.observation_dim}], "
                f"got {list(observation.shape)}"
            )

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper action limits `[A]`, with the dtype and device of `like`."""
        return like.new_tensor(self.action_low), like.new_tensor(self.action_high)


def actor_critic(
    spec: EnvSpec,
    *,
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    critic_layer_norm: bool = True,
    num_critics: int = 2,
    init_alpha: float = 1.0,
    feature_dim: int = 0,
) -> ActorCritic:
    """The networks for an environment whose images add `feature_dim` numbers to the observation.

    The other arguments are as in `ActorCritic`.
    """
    return ActorCritic(
        observation_dim=spec.observation_dim + feature_dim,
        action_low=spec.action_low,
        action_high=spec.action_high,
        hidden_sizes=hidden_sizes,
        activation=activation,
        actor_layer_norm=actor_layer_norm,
        critic_layer_norm=critic_layer_norm,
        num_critics=num_critics,
        init_alpha=init_alpha,
    )
