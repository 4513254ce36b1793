"""Checks that trees are what a policy needs: names, shapes, dtypes and finite values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.algorithms import POLICY_KEYS
from rlhive.core.errors import LoadError
from rlhive.core.normalizer import init_normalizer
from rlhive.core.tree_file import check_leaves, named_leaves
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.encoders import encoder_tree, learned
from rlhive.runs.run_spec import RunSpec


def check_params(where: str, params: Params, spec: RunSpec) -> None:
    """Refuses parameters that do not fit the policy; subtrees that only training reads are optional.

    Raises:
        LoadError: naming the first leaf that is missing, unexpected, of another shape or dtype, or not finite.
    """
    try:
        with torch.device("meta"):  # shapes alone: a damaged description may be of any size
            whole = spec.network.init(Generator())
            if spec.encoder is not None:
                whole["encoder"] = encoder_tree(spec.encoder)
    except (RuntimeError, TypeError, OverflowError) as error:
        parts = " and ".join(type(part).__name__ for part in (spec.network, spec.encoder) if part is not None)
        reason = str(error).partition("\n")[0]
        raise LoadError(f"{where}: the parameters of {parts} cannot be laid out ({reason})") from error
    needed = set(POLICY_KEYS[spec.algorithm])
    if learned(spec.encoder) is None:  # a bundle has the weights of a frozen encoder, a run does not
        needed -= {"encoder"}
    wanted = [name for name in whole.keys() if name in needed or name in params.keys()]  # noqa: SIM118
    _check_leaves(where, params, named_leaves(whole.select(*wanted)))


def check_env_state(where: str, env_state: EnvState, spec: RunSpec) -> None:
    """Refuses constants that cannot normalise the observation.

    Raises:
        LoadError: as in `check_params`, or the constants come from no observation.
    """
    _check_leaves(
        where, env_state, named_leaves(TensorDict({"observation": init_normalizer(spec.normalized_dim)}))
    )
    if bool((env_state["observation", "scale"] < 0).any()):
        raise LoadError(f"{where}: observation/scale holds negative values, which no deviation is")
    if not env_state["observation", "count"] > 0:
        raise LoadError(
            f"{where}: the normaliser has seen no observation (count 0), so it would not normalise"
        )


def _check_leaves(where: str, tree: TensorDict, expected: Mapping[str, Tensor]) -> None:
    found = named_leaves(tree)
    check_leaves(where, found, {name: like.shape for name, like in expected.items()})
    for name, like in expected.items():
        if found[name].dtype != like.dtype:
            raise LoadError(f"{where}: {name} is {found[name].dtype}, expected {like.dtype}")
