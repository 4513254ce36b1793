"""Loading a trained policy, from files or trees, and refusing what does not belong together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.checkpoint import checkpoint_dir, read_part, seed_dirs
from rlhive.core.normalizer import normalize
from rlhive.core.run_spec import RunSpec
from rlhive.core.tree_file import LoadError, check_names, flatten
from rlhive.core.types import EnvState, Params
from rlhive.losses_fn import POLICY_KEYS

__all__ = ["LoadError", "Policy", "load"]

PathLike = str | os.PathLike[str]


@attrs.frozen(eq=False)
class Policy:
    """A trained policy: `policy(observation)`, and `policy.apply`, the pure function behind it.

    Attributes:
        spec: what it was trained as and on; `spec.env` names the parts of observation and action.
        params: the subtrees `POLICY_KEYS[spec.algorithm]`.
        env_state: the constants that normalise the observation.
    """

    spec: RunSpec
    params: Params = attrs.field(repr=False)
    env_state: EnvState = attrs.field(repr=False)

    def __call__(self, observation: Any, noise: Any = None) -> Any:
        """The action, float32 `[..., A]` within its limits; a tensor for tensors, an array for arrays.

        Equal inputs give equal bits. The same observation in a batch of another size may differ in the last
        bits, because matrix products sum in another order there.

        Args:
            observation: raw, as the environment gives it: tensor or array `[..., O]`, or a dict of those by
                the names in `spec.env.observation_keys`, `[..., size of the part]`.
            noise: standard normal numbers `[..., A]` for an action drawn from the policy; without it the
                action is the deterministic one.

        Raises:
            ValueError: a shape or key that does not fit, or a value that is not finite.
        """
        env = self.spec.env
        vector, device = self._vector(observation)
        if noise is not None:
            noise = _as_float32(noise, "noise")
            _check_shape("noise", noise, (*vector.shape[:-1], env.action_dim))
            if not noise.isfinite().all():
                raise ValueError("noise is not finite")
            noise = noise.to(vector.device).reshape(-1, env.action_dim)
        with torch.no_grad():
            flat = vector.reshape(-1, env.observation_dim)
            action = self.apply(self.params, self.env_state, flat, noise)
        action = action.reshape(*vector.shape[:-1], env.action_dim)
        return action.cpu().numpy() if device is None else action.to(device)

    def apply(
        self, params: Params, env_state: EnvState, observation: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The pure function of a policy, for `torch.func`: the raw observation is normalised here, once.

        Args:
            params: the subtrees `POLICY_KEYS[spec.algorithm]`, or more.
            env_state: `{"observation": {"loc", "scale", "count"}}`.
            observation: `[B, O]`, float32.
            noise: standard normal numbers `[B, A]`, or None for the deterministic action.

        Returns:
            Actions `[B, A]`; a value that is not finite stays so.
        """
        normalized = normalize(env_state["observation"], observation)
        if noise is None:
            return self.spec.network.mode(params["actor"], normalized)
        return self.spec.network.sample(params["actor"], normalized, noise)[0]

    def _vector(self, observation: Any) -> tuple[Tensor, torch.device | None]:
        """The checked observation `[..., O]`, and the device it came from, None for arrays."""
        env = self.spec.env
        by_key = isinstance(observation, Mapping)
        values = list(observation.values()) if by_key else [observation]
        devices = [value.device for value in values if isinstance(value, Tensor)]
        vector = (
            self._joined(dict(observation.items())) if by_key else _as_float32(observation, "observation")
        )
        _check_shape("observation", vector, (*vector.shape[:-1], env.observation_dim))
        if not vector.isfinite().all():
            finite = vector.isfinite().reshape(-1, env.observation_dim).all(0)
            names = [
                f"{key}[{index}]"
                for key, (start, stop) in zip(env.observation_keys, env.observation_slices, strict=True)
                for index in (~finite[start:stop]).nonzero().flatten().tolist()
            ]
            raise ValueError(f"the observation is not finite at {', '.join(names)}")
        home = self.env_state["observation", "loc"].device
        return vector.to(home), devices[0] if devices else None

    def _joined(self, observation: Mapping[str, Any]) -> Tensor:
        env = self.spec.env
        missing = [key for key in env.observation_keys if key not in observation]
        extra = [key for key in observation if key not in env.observation_keys]
        if missing or extra:
            raise ValueError(
                f"the observation's keys must be {list(env.observation_keys)}; "
                f"missing {missing}, unexpected {extra}"
            )
        parts: list[Tensor] = []
        for key, (start, stop) in zip(env.observation_keys, env.observation_slices, strict=True):
            part = _as_float32(observation[key], key)
            if part.shape[-1:] != (stop - start,) and part.numel() == stop - start:
                part = part.reshape(-1)  # RoboHive's own parts have any shape: a matrix, a single number
            _check_shape(key, part, (*(parts[0] if parts else part).shape[:-1], stop - start))
            parts.append(part)
        return torch.cat(parts, dim=-1)


def load(
    params: PathLike | Params,
    env_state: PathLike | EnvState | None = None,
    *,
    spec: RunSpec | PathLike | None = None,
    seed: int | None = None,
    step: int | None = None,
) -> Policy:
    """Loads a policy: `load(run_dir)`, or `load(params, env_state)` of two files, two trees, or one of each.

    Args:
        params: a `params.safetensors`, or the tree of one seed; alone, the directory of a run or checkpoint.
        env_state: the `env_state.safetensors` saved with it, or the tree of one seed.
        spec: the run's `RunSpec` or `spec.json`. Files name theirs; two trees need it.
        seed: which seed of a directory that holds several.
        step: which checkpoint of a run; the latest by default.

    Raises:
        LoadError: something is missing, damaged, not finite, a pickle, or of another environment, run,
            seed, step, network or format version; one line that says which.
    """
    if env_state is None:
        folder = _seed_dir(params, seed, step)
        params, env_state = folder / "params.safetensors", folder / "env_state.safetensors"
    elif seed is not None or step is not None:
        raise LoadError("seed and step choose in a run's directory; params and env_state are of one already")
    origins = [_Origin("spec", _read_spec(spec), None, None)] if spec is not None else []
    tree, where = _read(params, "params", origins)
    constants, where_constants = _read(env_state, "env_state", origins)
    run = _common_spec(origins)
    _check_params(where, tree, run)
    _check_env_state(where_constants, constants, run)
    tree = tree.select(*POLICY_KEYS[run.algorithm])
    return Policy(run, tree.detach().clone().lock_(), constants.detach().clone().lock_())


class _Origin(NamedTuple):
    where: str
    spec: RunSpec
    seed: int | None
    step: int | None


def _seed_dir(path: PathLike | Params, seed: int | None, step: int | None) -> Path:
    if isinstance(path, TensorDict) or Path(path).is_file():
        raise LoadError("env_state is missing: pass the env_state that was saved with params as well")
    folder = Path(path)
    if not folder.is_dir():
        raise LoadError(f"{folder}: there is no such file or directory")
    if (folder / "checkpoints").is_dir():
        folder = checkpoint_dir(folder, step)
    elif step is not None:
        raise LoadError(f"{folder}: is not the directory of a run, so step={step} cannot be chosen there")
    folders = seed_dirs(folder)
    seeds = ", ".join(map(str, folders))
    if seed is None and len(folders) > 1:
        raise LoadError(f"{folder}: holds several seeds, choose one with seed=: {seeds}")
    if seed is not None and seed not in folders:
        raise LoadError(f"{folder}: has no seed {seed}, but {seeds}")
    return folders[next(iter(folders)) if seed is None else seed]


def _read_spec(spec: RunSpec | PathLike) -> RunSpec:
    if isinstance(spec, RunSpec):
        return spec
    try:
        return RunSpec.from_json(Path(spec).read_text(), spec)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{spec}: cannot be read: {error}") from None


def _read(source: PathLike | TensorDict | None, kind: str, origins: list[_Origin]) -> tuple[TensorDict, str]:
    """The tree and a name for it in messages; adds where a file comes from to `origins`."""
    if isinstance(source, TensorDict):
        return source, kind
    if not isinstance(source, str | os.PathLike):
        raise LoadError(f"{kind} must be a path or a TensorDict, got {type(source).__name__}")
    tree, header = read_part(source, kind)
    origins.append(_Origin(str(source), header.spec, header.seed, header.step))
    return tree, str(source)


def _common_spec(origins: Sequence[_Origin]) -> RunSpec:
    if not origins:
        raise LoadError(
            "two trees do not say what they are of: pass spec=, the RunSpec or the run's spec.json"
        )
    for other in origins[1:]:
        _check_same(origins[0], other)
    spec = origins[0].spec
    if spec.algorithm not in POLICY_KEYS:
        raise LoadError(
            f"unknown algorithm {spec.algorithm!r}; this version of rlhive has {', '.join(POLICY_KEYS)}"
        )
    return spec


def _check_same(one: _Origin, other: _Origin) -> None:
    pairs = {
        "environment": (one.spec.env.name, other.spec.env.name),
        "run": (one.spec.run_id, other.spec.run_id),
        "seed": (one.seed, other.seed),
        "step": (one.step, other.step),
    }
    for what, (first, second) in pairs.items():
        if first != second and None not in (first, second):
            raise LoadError(
                f"{other.where}: is of another {what} ({second}) than {one.where} ({first}); "
                "take both from one checkpoint"
            )


def _check_params(where: str, params: Params, spec: RunSpec) -> None:
    """Whole subtrees that only training reads may be there or not; what is there must be right."""
    whole = spec.network.init(Generator())
    wanted = [name for name in whole.keys() if name in POLICY_KEYS[spec.algorithm] or name in params.keys()]  # noqa: SIM118
    _check_leaves(where, params, flatten(whole.select(*wanted)))


def _check_env_state(where: str, env_state: EnvState, spec: RunSpec) -> None:
    vector = torch.zeros(spec.env.observation_dim)
    names = {"observation/loc": vector, "observation/scale": vector, "observation/count": torch.zeros(())}
    _check_leaves(where, env_state, names)
    if not env_state["observation", "count"] > 0:
        raise LoadError(
            f"{where}: the normaliser has seen no observation (count 0), so it would not normalise"
        )


def _check_leaves(where: str, tree: TensorDict, expected: Mapping[str, Tensor]) -> None:
    found = flatten(tree)
    check_names(where, expected, found)
    for name, like in expected.items():
        leaf = found[name]
        if leaf.shape != like.shape:
            hint = "; of several seeds? take one, such as tree[0]" if leaf.shape[1:] == like.shape else ""
            raise LoadError(
                f"{where}: {name} has shape {list(leaf.shape)}, expected {list(like.shape)}{hint}"
            )
        if leaf.dtype != like.dtype:
            raise LoadError(f"{where}: {name} is {leaf.dtype}, expected {like.dtype}")
        if not leaf.isfinite().all():
            raise LoadError(f"{where}: {name} holds values that are not finite")


def _as_float32(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(torch.float32)
    if not isinstance(value, np.ndarray | np.number | float | int):
        raise ValueError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    return torch.tensor(np.array(value, order="C")).to(torch.float32)


def _check_shape(name: str, value: Tensor, expected: Iterable[int]) -> None:
    expected = tuple(expected)
    if tuple(value.shape) != expected:
        raise ValueError(f"{name} must have shape {list(expected)}, got {list(value.shape)}")
