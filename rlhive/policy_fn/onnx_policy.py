"""An exported policy without torch: numpy and onnxruntime alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError, NotFiniteActionError
from rlhive.policy_fn.bundle_files import ONNX, SPEC, check_file, read_spec
from rlhive.policy_fn.compare import differences
from rlhive.policy_fn.observation import example_observation, is_finite, read_seen


@attrs.frozen(eq=False)
class OnnxPolicy:
    """The deterministic policy of a bundle's `policy.onnx`: `policy(observation)`.

    Attributes:
        env: what it was trained on: names, order and limits of observation and action.
        description: the whole of the bundle's spec.json.
    """

    env: EnvSpec
    description: dict[str, Any] = attrs.field(repr=False)
    _session: Any = attrs.field(repr=False)

    def __call__(self, observation: Any) -> np.ndarray:
        """The action, float32 `[..., A]` within its limits.

        Args:
            observation: as `Policy` takes it; the action is an array for tensors, too.

        Raises:
            NotFiniteError: a value of the observation is not finite; `NotFiniteActionError`: of the action.
            ValueError: a shape or key that does not fit.
        """
        vector, pixels = read_seen(self.env, _as_arrays(observation))
        inputs = {"observation": vector.reshape(-1, self.env.observation_dim)}
        if self.env.pixels is not None and pixels is not None:
            inputs["pixels"] = pixels.reshape(-1, *self.env.pixels.shape)
        action = self._session.run(None, inputs)[0]
        if not is_finite(action):
            raise NotFiniteActionError(f"the action is not finite: {action.tolist()}")
        return action.reshape(*vector.shape[:-1], self.env.action_dim)

    def check(self, env_or_robot: Any) -> list[str]:
        """Every difference between what the policy was trained on and a robot; see `compare.differences`."""
        return differences(self.env, env_or_robot)


def _as_arrays(value: Any) -> Any:
    """Tensors as arrays, alone or in a mapping, without importing torch."""
    if isinstance(value, Mapping):
        return {key: _as_arrays(part) for key, part in value.items()}
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def load_onnx(bundle: str | os.PathLike[str]) -> OnnxPolicy:
    """Loads the ONNX policy of a bundle, on one thread, after comparing the file with its hash.

    Raises:
        LoadError: the bundle has none, or it is damaged, changed or of something else; one line.
    """
    import onnxruntime

    folder = Path(bundle)
    values = read_spec(folder / SPEC)
    if ONNX not in values["files"]:
        raise LoadError(f"{folder}: has no {ONNX}; export it with --onnx")
    check_file(folder / ONNX, values["files"][ONNX])
    try:
        env = EnvSpec.from_dict(values["run"]["env"])
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise LoadError(f"{folder / SPEC}: a value does not fit: {error}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no class in common
        raise LoadError(f"{folder / ONNX}: {' '.join(str(error).split())}") from None
    stored = session.get_modelmeta().custom_metadata_map.get(SPEC, "")
    if json.loads(stored or "null") != {key: value for key, value in values.items() if key != "files"}:
        raise LoadError(f"{folder / ONNX}: is not of the policy that {SPEC} describes; export it again")
    policy = OnnxPolicy(env, values, session)
    policy(example_observation(env))
    return policy
