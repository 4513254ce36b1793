"""Plays the policies of a run on the same episodes, side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.errors import NotFiniteActionError
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.bundle import is_bundle, read_bundle
from rlhive.policy_fn.compare import check_same_environment
from rlhive.policy_fn.loading import load
from rlhive.policy_fn.plan import follow
from rlhive.policy_fn.policy import Policy
from rlhive.runs.checkpoint_files import read_part
from rlhive.runs.run_files import choose_checkpoint, seed_dirs
from rlhive.training.evaluation import Act, Episodes, run_episodes


def load_policies(
    run_dir: str | os.PathLike[str], step: int | None = None
) -> tuple[dict[int, Policy], int, set[int]]:
    """Loads the policies of a run's checkpoint, or of a bundle.

    Args:
        run_dir: the directory of the run, of one of its checkpoints, or of the bundle.
        step: which checkpoint of the run; the latest by default.

    Returns:
        The policies by seed, the step of the checkpoint, and the seeds left out because their actions are not finite.

    Raises:
        ValueError: no policy can be loaded.
    """
    if is_bundle(run_dir):
        bundle = read_bundle(run_dir)
        return {bundle.seed: load(run_dir, step=step)}, bundle.step, set()
    folders = seed_dirs(choose_checkpoint(run_dir, step))
    # The step is in the header: in a copy without links the directory is called "latest".
    header = read_part(next(iter(folders.values())), "params")[1]
    policies = {}
    for trained, path in folders.items():
        with contextlib.suppress(NotFiniteActionError):
            policies[trained] = load(path)
    if not policies:
        raise ValueError(all_broken(run_dir, folders))
    return policies, header.step, set(folders) - set(policies)


def all_broken(run_dir: str | os.PathLike[str], seeds: Iterable[int]) -> str:
    """The error message for a run in which no seed's policy gives finite actions."""
    names = ", ".join(map(str, sorted(seeds)))
    return f"{run_dir}: the actions of all seeds are not finite: {names}; their training diverged"


def play(
    policies: Mapping[int, Policy], seed: int, episode_seeds: Sequence[int], *, stochastic: bool
) -> tuple[Episodes, set[int]]:
    """Plays every seed's policy on the same episodes; also returns the seeds whose actions were not finite.

    Raises:
        ValueError: the environment differs from the one they were trained on.
    """
    actors = {of: make_actor(policy, seed, stochastic=stochastic) for of, policy in policies.items()}
    network = next(iter(policies.values())).spec.network
    broken: set[int] = set()
    trained_on = next(iter(policies.values())).spec.env

    def act_of(trained: int, seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        try:
            return actors[trained](seen, rest)
        except NotFiniteActionError:
            broken.add(trained)
            return follow(rest, lambda: torch.zeros(*seen.shape, network.chunk_size, trained_on.action_dim))

    def act(seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rests = [None] * len(actors) if rest is None else list(rest)
        actions, left = zip(*map(act_of, actors, seen, rests), strict=True)
        return torch.stack(actions), None if left[0] is None else torch.stack(left)

    # Starting a worker process would take longer than it saves on so few steps.
    with VectorEnv(trained_on.name, seeds=list(policies), num_workers=0, pixels=trained_on.pixels) as envs:
        check_same_environment(envs.spec, trained_on)
        return run_episodes(envs, act, episode_seeds), broken


def make_actor(policy: Policy, seed: int, *, stochastic: bool) -> Act:
    """The policy as a function of what `VectorEnv` returns, batch `[E]`; a stochastic one draws noise from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    chunk_size, action_dim = policy.spec.network.chunk_size, policy.spec.env.action_dim

    def act(seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        drawn = stochastic and rest is None
        shape = (*seen.shape, chunk_size, action_dim)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32) if drawn else None
        return policy.act(dict(seen.items()), rest, noise)

    return act
