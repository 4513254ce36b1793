"""The table of algorithms: the networks, loss and noise of each, and what its parameters are used for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rlhive.core.random import Source
from rlhive.core.types import LossFn, Noise
from rlhive.losses_fn import (
    draw_no_noise,
    draw_sac_noise,
    draw_td3_bc_noise,
    make_bc_loss,
    make_iql_loss,
    make_sac_loss,
    make_td3_bc_loss,
)
from rlhive.policy_fn.actor import ActorCritic, actor_critic
from rlhive.policy_fn.offline_network import OfflineNetwork, bc_network, iql_network, td3_bc_network


class Algorithm(NamedTuple):
    """What an algorithm is made of.

    Attributes:
        network: the class of its networks.
        make_network: `make_network(env_spec, ...) -> network`.
        make_loss: `make_loss(network, ...) -> loss_fn`.
        draw_noise: `draw_noise(source, network, batch_size) -> noise` for one call of the loss. It draws with
            `uniform` and `normal` of `rlhive.core.random`, which take the generators of a run on a CPU or the `Key`
            of a run on a GPU.
        target_keys: subtrees of the parameters that have a target network.
        policy_keys: subtrees of the parameters that the policy reads; "encoder" exists only where an encoder learns.
        offline: whether it learns from a data set alone, without stepping an environment.
        needs_rewards: whether that data set must have rewards.
    """

    network: type[ActorCritic]
    make_network: Callable[..., ActorCritic]
    make_loss: Callable[..., LossFn]
    draw_noise: Callable[[Source, Any, int], Noise]
    target_keys: tuple[str, ...]
    policy_keys: tuple[str, ...] = ("actor", "encoder")
    offline: bool = False
    needs_rewards: bool = True


ALGORITHMS: dict[str, Algorithm] = {
    "sac": Algorithm(
        network=ActorCritic,
        make_network=actor_critic,
        make_loss=make_sac_loss,
        draw_noise=draw_sac_noise,
        target_keys=("critic",),
    ),
    "bc": Algorithm(
        network=OfflineNetwork,
        make_network=bc_network,
        make_loss=make_bc_loss,
        draw_noise=draw_no_noise,
        target_keys=(),
        offline=True,
        needs_rewards=False,
    ),
    "iql": Algorithm(
        network=OfflineNetwork,
        make_network=iql_network,
        make_loss=make_iql_loss,
        draw_noise=draw_no_noise,
        target_keys=("critic",),
        offline=True,
    ),
    "td3_bc": Algorithm(
        network=OfflineNetwork,
        make_network=td3_bc_network,
        make_loss=make_td3_bc_loss,
        draw_noise=draw_td3_bc_noise,
        target_keys=("actor", "critic"),
        offline=True,
    ),
}


def step_key(algorithm: str) -> str:
    """What the steps of an algorithm's runs count: a name of `rlhive.runs.run_files.STEP_NAMES`."""
    return "gradient_updates" if ALGORITHMS[algorithm].offline else "environment_steps"


class _PolicyKeys(Mapping[str, tuple[str, ...]]):
    """The `policy_keys` of every entry of `ALGORITHMS`, including algorithms added by users."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return ALGORITHMS[name].policy_keys

    def __iter__(self) -> Iterator[str]:
        return iter(ALGORITHMS)

    def __len__(self) -> int:
        return len(ALGORITHMS)


# From loss to policy: a policy's tree is `params.select(*POLICY_KEYS[algorithm], strict=False)`, and nothing else.
POLICY_KEYS = _PolicyKeys()

# The subtrees of the parameters that a run of the second algorithm can start with from a run of the first.
INIT_KEYS = {("bc", "sac"): ("actor",), ("iql", "sac"): ("actor", "critic")}
