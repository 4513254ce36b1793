"""A policy as one graph, normaliser to limits: ONNX, and torch.export's .pt2; compared with the policy itself."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhive.envs.names import suites
from rlhive.policy_fn.bundle_files import SPEC
from rlhive.policy_fn.flat import make_flat_apply
from rlhive.policy_fn.policy import Policy

TOLERANCE, SAMPLES = 1e-5, 1000
ONNX, TORCH_EXPORT = "policy.onnx", "policy.pt2"
INPUT, OUTPUT = "observation", "action"


class _Graph(nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._act = make_flat_apply(policy.spec.network, policy.params, policy.env_state)

    def forward(self, observation: Tensor) -> Tensor:
        return self._act(observation)


def write_torch_export(policy: Policy, path: Path, observations: np.ndarray) -> None:
    """Writes the deterministic policy as a program of torch.export: "observation" `[B, O]` to the action `[B, A]`.

    Args:
        policy: the policy, on the CPU in float32.
        path: the .pt2 file to write.
        observations: `[n, O]`, on which it is compared with the policy.

    Raises:
        RuntimeError: it computes other actions.
    """
    program = _trace(policy)
    module = program.module()
    _compare(path.name, policy, observations, lambda batch: module(torch.from_numpy(batch)).numpy())
    torch.export.save(program, path)


def write_onnx(policy: Policy, path: Path, observations: np.ndarray, description: Mapping[str, Any]) -> None:
    """Writes the deterministic policy as ONNX: input "observation" `[B, O]` raw, output "action" `[B, A]`, float32.

    Args:
        policy: the policy, on the CPU in float32.
        path: the .onnx file to write.
        observations: `[n, O]`, on which onnxruntime is compared with the policy.
        description: what goes into the file's metadata, as JSON under "spec.json".

    Raises:
        RuntimeError: it computes other actions.
    """
    import onnx
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            _trace(policy),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    model = exported.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(model, {SPEC: json.dumps(description)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _compare(path.name, policy, observations, lambda batch: session.run([OUTPUT], {INPUT: batch})[0])


def sample_observations(policy: Policy) -> np.ndarray:
    """Observations to compare exports on, float32 `[n, O]`: random ones, and ones that the policy's episodes lead to.

    Random are 1000 with the mean and three times the deviation of those seen in training. For an environment of
    RoboHive 1000 more are recorded while the policy acts in it.
    """
    normalizer = policy.env_state["observation"]
    noise = torch.randn(SAMPLES, policy.spec.env.observation_dim, generator=torch.Generator().manual_seed(0))
    random = (normalizer["loc"] + 3.0 * normalizer["scale"] * noise).numpy()
    if not any(policy.spec.env.name in names for names in suites().values()):
        return random
    return np.concatenate([random, record(policy, SAMPLES)])


def record(policy: Policy, count: int) -> np.ndarray:
    """The first `count` observations `[count, O]` of the policy's own episodes in RoboHive."""
    from rlhive.envs.robohive import RoboHive

    env = RoboHive(policy.spec.env.name, seed=0)
    observations: list[np.ndarray] = []
    observation = env.reset()
    try:
        while len(observations) < count:
            observations.append(observation)
            result = env.step(policy(observation))
            observation = env.reset() if result.terminated or result.truncated else result.observation
    finally:
        env.close()
    return np.stack(observations)


def _trace(policy: Policy) -> torch.export.ExportedProgram:
    example = torch.zeros(2, policy.spec.env.observation_dim)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(_Graph(policy), (example,), dynamic_shapes={"observation": {0: batch}})


def _compare(
    name: str, policy: Policy, observations: np.ndarray, act: Callable[[np.ndarray], np.ndarray]
) -> None:
    expected = policy(observations)
    alone = np.concatenate([act(observation[None]) for observation in observations])
    error = max(np.abs(act(observations) - expected).max(), np.abs(alone - expected).max())
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"{name}: its actions differ from the policy's by {error:.2g}, more than {TOLERANCE:.0e}"
        )
