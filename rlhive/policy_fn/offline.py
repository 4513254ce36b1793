"""The networks of algorithms that learn from data: an actor of any head, critics and a state value if needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from attrs import validators as v
from torch import Generator, Tensor

from rlhive.core.env_spec import EnvSpec
from rlhive.core.types import Params
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.heads import HEADS
from rlhive.policy_fn.mlp import apply_mlp, init_mlp

PARTS = ("actor", "critic", "value")


def _parts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@attrs.frozen
class OfflineNetwork(ActorCritic):
    """An `ActorCritic` without a temperature, whose actor may have another head; its trees have no `log_alpha`.

    With the head "tanh_gaussian" its actor and critics are those of SAC, leaf by leaf.

    Attributes:
        head: a name in `HEADS`.
        parts: which of `PARTS` the parameters have.
    """

    head: str = attrs.field(default="tanh_gaussian", validator=v.in_(tuple(HEADS)))
    parts: tuple[str, ...] = attrs.field(
        default=PARTS, converter=_parts, validator=v.deep_iterable(v.in_(PARTS))
    )

    def init(self, key: Generator) -> Params:
        """Draws `{"actor", "critic" [N, ...], "value"}`, those of `parts`, from a CPU generator."""
        params = super().init(key)
        value_sizes = (self.observation_dim, *self.hidden_sizes, 1)
        params["value"] = init_mlp(key, value_sizes, layer_norm=self.critic_layer_norm)
        return params.select(*self.parts)

    def init_actor(self, key: Generator) -> Params:
        """Draws the actor's tree, which is all that a deployed policy needs."""
        width = HEADS[self.head].width(self.action_dim)
        return init_mlp(
            key, (self.observation_dim, *self.hidden_sizes, width), layer_norm=self.actor_layer_norm
        )

    def sample(self, actor: Params, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action `[B, A]` and log-probability `[B]` for normalised observations and standard normal noise `[B, A]`."""
        return HEADS[self.head].sample(self._out(actor, observation), noise, *self.limits(observation))

    def mode(self, actor: Params, observation: Tensor) -> Tensor:
        """Deterministic action `[B, A]` for normalised observations `[B, O]`."""
        return HEADS[self.head].mode(self._out(actor, observation), *self.limits(observation))

    def log_prob(self, actor: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Log-probability `[B]` of actions `[B, A]`.

        Raises:
            ValueError: the head has no density.
        """
        log_prob = HEADS[self.head].log_prob
        if log_prob is None:
            raise ValueError(
                f"the head {self.head!r} has no density; take one of gaussian, tanh_gaussian, mixture"
            )
        return log_prob(self._out(actor, observation), action, *self.limits(observation))

    def state_value(self, value: Params, observation: Tensor) -> Tensor:
        """Values `[B]` of normalised observations `[B, O]`."""
        return apply_mlp(value, observation, activation=self.activation).squeeze(-1)

    def _out(self, actor: Params, observation: Tensor) -> Tensor:
        return apply_mlp(actor, observation, activation=self.activation)


def bc_network(
    spec: EnvSpec,
    *,
    head: str = "gaussian",
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    feature_dim: int = 0,
) -> OfflineNetwork:
    """The actor of behaviour cloning for an environment; arguments as in `OfflineNetwork` and `actor_critic`."""
    return _fitting(
        spec,
        feature_dim,
        hidden_sizes=hidden_sizes,
        activation=activation,
        actor_layer_norm=actor_layer_norm,
        head=head,
        parts=("actor",),
    )


def iql_network(
    spec: EnvSpec,
    *,
    head: str = "gaussian",
    hidden_sizes: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_layer_norm: bool = False,
    critic_layer_norm: bool = True,
    num_critics: int = 2,
    feature_dim: int = 0,
) -> OfflineNetwork:
    """The networks of IQL for an environment; arguments as in `OfflineNetwork` and `actor_critic`.

    Raises:
        ValueError: the head has no density.
    """
    if head in HEADS and HEADS[head].log_prob is None:
        raise ValueError(f"IQL weighs log-probabilities, which the head {head!r} has none of")
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
    # What gin configures has its arguments by name, so that a wrong one is known before a run.
    return OfflineNetwork(spec.observation_dim + feature_dim, spec.action_low, spec.action_high, **settings)
