"""Starts a run from what another run has learned: some of its parameters, and its normaliser."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS, INIT_KEYS
from rlhive.core.errors import LoadError
from rlhive.core.tree import stack_seeds
from rlhive.core.types import TrainState
from rlhive.policy_fn.offline_network import OfflineNetwork
from rlhive.runs.checkpoint_files import read_part
from rlhive.runs.gin_text import settings
from rlhive.runs.run_files import checkpoint_dir, seed_dirs, settings_path
from rlhive.runs.run_spec import Origin, RunSpec

LOG = logging.getLogger(__name__)

ACTOR = ("observation_dim", "action_low", "action_high", "hidden_sizes", "activation", "actor_layer_norm")
CRITIC = ("critic_layer_norm", "num_critics")


def latest_of(run_dir: str | os.PathLike[str]) -> Origin:
    """The latest checkpoint of a run, to start from.

    Raises:
        LoadError: there is no such run, or its files are damaged.
    """
    folder = next(iter(seed_dirs(checkpoint_dir(run_dir)).values()))
    return Origin(os.fspath(run_dir), *read_part(folder, "params")[1].origin)


def start_from(
    state: TrainState,
    run_dir: str | os.PathLike[str],
    origin: Origin,
    spec: RunSpec,
    seeds: Sequence[int],
) -> TrainState:
    """The state `[S]` with the subtrees `INIT_KEYS` and the normaliser of a checkpoint of another run, `origin`.

    Targets start equal to their parameters. Seed k starts from seed k of that run, or from its only seed.

    Args:
        state: a fresh one; not modified.
        run_dir: where the other run is now.
        origin: which of its checkpoints.
        spec: the spec of the run that starts.
        seeds: the S seeds.

    Raises:
        LoadError: there is no such run, checkpoint or seed, the run is not that of `origin`, its files are
            damaged, or its environment, algorithm, head or sizes do not fit.
    """
    folders = seed_dirs(checkpoint_dir(run_dir, origin.step))
    if lacking := [seed for seed in seeds if seed not in folders and len(folders) > 1]:
        raise LoadError(f"{run_dir}: has the seeds {list(folders)}, of which {lacking} cannot begin with one")
    chosen = [folders.get(seed, next(iter(folders.values()))) for seed in seeds]
    read = [read_part(folder, "params") for folder in chosen]
    if read[0][1].origin != (origin.run_id, origin.step):
        raise LoadError(
            f"{run_dir}: is another run than the one that {origin.path} was when the run began with it"
        )
    keys = _check_fits(run_dir, read[0][1].spec, spec)
    taken = stack_seeds([params.select(*keys) for params, _ in read]).to(state["step"].device)
    constants = [read_part(folder, "env_state")[0] for folder in chosen]
    targets = [key for key in ALGORITHMS[spec.algorithm].target_keys if key in keys]
    return TensorDict(
        {
            **state,
            "params": state["params"].copy().update(taken),
            "target_params": state["target_params"].copy().update(taken.select(*targets).clone()),
            "env_state": stack_seeds(constants).to(state["step"].device),
        },
        batch_size=state.batch_size,
    )


def warn_of_discount(run_dir: str | os.PathLike[str], algorithm: str, text: str) -> None:
    """Logs a warning if a run takes over critics that were trained with another discount.

    Args:
        run_dir: the other run; without a config.gin its discount is unknown.
        algorithm: of the run that starts.
        text: the bindings it starts with, as in a config.gin.
    """
    folder = next(iter(seed_dirs(checkpoint_dir(run_dir)).values()))
    earlier = read_part(folder, "params")[1].spec.algorithm
    path = settings_path(Path(run_dir))
    if "critic" not in INIT_KEYS[earlier, algorithm] or not path.exists():
        return
    there, here = _discount(path.read_text(encoding="utf-8"), earlier), _discount(text, algorithm)
    if None not in (there, here) and there != here:
        LOG.warning(
            "%s: its critics were trained with %s_loss.gamma=%s, and this run has %s_loss.gamma=%s: their values have "
            "another scale, so set GAMMA=%s, or start from the actor of a behaviour-cloning run",
            *(run_dir, earlier, there, algorithm, here, there),
        )


def _discount(text: str, algorithm: str) -> str | None:
    """The discount of an algorithm's loss in a config.gin, None if it names none."""
    bindings = settings(text)
    gamma = bindings.get(f"{algorithm}_loss.gamma")
    return gamma if gamma is None else bindings.get(gamma.removeprefix("%"), gamma)


def _check_fits(run_dir: object, earlier: RunSpec, spec: RunSpec) -> tuple[str, ...]:
    """Compares the runs; returns the subtrees to take over."""
    keys = INIT_KEYS.get((earlier.algorithm, spec.algorithm))
    if keys is None:
        known = ", ".join(f"{later} from {first}" for first, later in INIT_KEYS)
        raise LoadError(
            f"{run_dir}: {spec.algorithm} cannot start from {earlier.algorithm}; there is {known}"
        )
    if earlier.env != spec.env or earlier.encoder != spec.encoder:
        raise LoadError(
            f"{run_dir}: is of another environment or encoder, {earlier.env.name}, not {spec.env.name}"
        )
    if earlier.network.chunk_size > 1:
        raise LoadError(
            f"{run_dir}: its actor plans {earlier.network.chunk_size} actions at once, and {spec.algorithm} needs 1"
        )
    if isinstance(earlier.network, OfflineNetwork) and earlier.network.head != "tanh_gaussian":
        raise LoadError(
            f"{run_dir}: its actor has the head {earlier.network.head!r}, and {spec.algorithm} needs 'tanh_gaussian'"
        )
    names = ACTOR + (CRITIC if "critic" in keys else ())
    pairs = [(name, getattr(earlier.network, name), getattr(spec.network, name)) for name in names]
    differing = [
        f"{name} is {there!r} there and {here!r} here" for name, there, here in pairs if there != here
    ]
    if differing:
        raise LoadError(f"{run_dir}: its networks do not fit: {'; '.join(differing)}")
    return keys
