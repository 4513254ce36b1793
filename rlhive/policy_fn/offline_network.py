"""The networks of algorithms that learn from data: an actor with any head, and critics and a state value if needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from attrs import validators as v
from torch import Generator, Tensor

from rlhive.core.converters import strings
from rlhive.core.env_spec import EnvSpec
from rlhive.core.keys import as_generator
from rlhive.core.settings import one_of
from rlhive.core.types import Params
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.heads import HEADS, heads_with_density
from rlhive.policy_fn.mlp import apply_mlp, init_mlp

PARTS = ("actor", "critic", "value")


@attrs.frozen
class OfflineNetwork(ActorCritic):
    """An `ActorCritic` without a temperature, whose actor may have another head; its trees have no `log_alpha`.

    With the head "tanh_gaussian" its actor and critics are those of SAC, leaf by leaf.

    Attributes:
        head: a name in `HEADS`.
        parts: which of `PARTS` the parameters have.
        chunk_size: K, how many actions the actor plans at once (Zhao 2023, arXiv:2304.13705); its last layer has the
            outputs of one step after another. Only for an actor without critics, and not with the head "mixture".
    """

    head: str = attrs.field(default="tanh_gaussian", validator=one_of(HEADS))
    parts: tuple[str, ...] = attrs.field(
        default=PARTS, converter=strings, validator=v.deep_iterable(one_of(PARTS))
    )
    chunk_size: int = attrs.field(default=1, validator=v.and_(v.instance_of(int), v.ge(1), v.le(1000)))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.chunk_size > 1 and (self.head == "mixture" or self.parts != ("actor",)):
            raise ValueError(
                "chunk_size > 1 goes with behaviour cloning and the heads deterministic, gaussian and tanh_gaussian "
                f"alone, not with {self.head} of {', '.join(self.parts)}"
            )

    def init(self, key: int | Generator) -> Params:
        """Draws `{"actor", "critic" [N, ...], "value"}`, those of `parts`, from a seed or CPU generator."""
        key = as_generator(key)
        params = super().init(key)
        value_sizes = (self.observation_dim, *self.hidden_sizes, 1)
        params["value"] = init_mlp(key, value_sizes, layer_norm=self.critic_layer_norm)
        return params.select(*self.parts)

    def init_actor(self, key: Generator) -> Params:
        """Draws the actor's tree, which is all that a deployed policy needs."""
        width = self.chunk_size * HEADS[self.head].width(self.action_dim)
        return init_mlp(
            key, (self.observation_dim, *self.hidden_sizes, width), layer_norm=self.actor_layer_norm
        )

    def sample(self, actor: Params, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action `[B, A]` and log-probability `[B]` for normalised observations and standard normal noise `[B, A]`.

        With a plan, this is the first action; likewise in `mode` and `log_prob`.
        """
        out = self._outs(actor, observation)[..., 0, :]
        return HEADS[self.head].sample(out, noise, *self.limits(observation))

    def mode(self, actor: Params, observation: Tensor) -> Tensor:
        """Deterministic action `[B, A]` for normalised observations `[B, O]`."""
        return HEADS[self.head].mode(self._outs(actor, observation)[..., 0, :], *self.limits(observation))

    def log_prob(self, actor: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Log-probability `[B]` of actions `[B, A]`.

        Raises:
            ValueError: the head has no density.
        """
        density = self._density()
        return density(self._outs(actor, observation)[..., 0, :], action, *self.limits(observation))

    def plan(self, actor: Params, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next K actions `[B, K, A]`: the deterministic ones, or those of standard normal noise `[B, K, A]`."""
        out, limits = self._outs(actor, observation), self.limits(observation)
        if noise is None:
            return HEADS[self.head].mode(out, *limits)
        return HEADS[self.head].sample(out, noise, *limits)[0]

    def plan_log_prob(self, actor: Params, observation: Tensor, plan: Tensor) -> Tensor:
        """Log-probabilities `[B, K]` of the actions of a plan `[B, K, A]`.

        Raises:
            ValueError: the head has no density.
        """
        return self._density()(self._outs(actor, observation), plan, *self.limits(observation))

    def state_value(self, value: Params, observation: Tensor) -> Tensor:
        """Values `[B]` of normalised observations `[B, O]`."""
        return apply_mlp(value, observation, activation=self.activation).squeeze(-1)

    def _outs(self, actor: Params, observation: Tensor) -> Tensor:
        """The head's input for each action, `[B, K, width]`."""
        out = apply_mlp(actor, observation, activation=self.activation)
        return out.unflatten(-1, (self.chunk_size, out.shape[-1] // self.chunk_size))

    def _density(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        log_prob = HEADS[self.head].log_prob
        if log_prob is None:
            others = ", ".join(heads_with_density())
            raise ValueError(f"the head {self.head!r} has no density; take one of {others}")
        return log_prob


def bc_network(
    spec: EnvSpec,
    *,
    head: str = "gaussian",
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    chunk_size: int = 1,
    feature_dim: int = 0,
) -> OfflineNetwork:
    """The actor of behaviour cloning for an environment; arguments as in `OfflineNetwork` and `actor_critic`.

    Raises:
        ValueError: a chunk of the head "mixture".
    """
    return _fitting(
        spec,
        feature_dim,
        chunk_size=chunk_size,
        hidden_sizes=hidden_sizes,
        activation=activation,
        actor_layer_norm=actor_layer_norm,
        head=head,
        parts=("actor",),
    )


def iql_network(
    spec: EnvSpec,
    *,
    head: str = "tanh_gaussian",
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    critic_layer_norm: bool = True,
    num_critics: int = 2,
    feature_dim: int = 0,
) -> OfflineNetwork:
    """The networks of IQL for an environment; arguments as in `OfflineNetwork` and `actor_critic`."""
    return _fitting(
        spec,
        feature_dim,
        hidden_sizes=hidden_sizes,
        activation=activation,
        actor_layer_norm=actor_layer_norm,
        critic_layer_norm=critic_layer_norm,
        num_critics=num_critics,
        head=head,
        parts=PARTS,
    )


def td3_bc_network(
    spec: EnvSpec,
    *,
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    critic_layer_norm: bool = True,
    num_critics: int = 2,
    feature_dim: int = 0,
) -> OfflineNetwork:
    """The networks of TD3+BC for an environment, whose actor is deterministic; arguments as in `iql_network`."""
    return _fitting(
        spec,
        feature_dim,
        hidden_sizes=hidden_sizes,
        activation=activation,
        actor_layer_norm=actor_layer_norm,
        critic_layer_norm=critic_layer_norm,
        num_critics=num_critics,
        head="deterministic",
        parts=("actor", "critic"),
    )


def _fitting(spec: EnvSpec, feature_dim: int, **settings: Any) -> OfflineNetwork:
    # The functions above name their arguments, so that gin finds a wrong one before a run.
    return OfflineNetwork(spec.observation_dim + feature_dim, spec.action_low, spec.action_high, **settings)
