"""Exports a policy as one graph, from raw observation to action: ONNX and torch.export's .pt2, both checked."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from tqdm import tqdm

from rlhive.envs.names import built_name, list_names
from rlhive.policy_fn.bundle_files import ONNX, SPEC
from rlhive.policy_fn.observation import example_observation
from rlhive.policy_fn.policy import Policy

TOLERANCE, SAMPLES = 1e-5, 1000
TORCH_EXPORT = "policy.pt2"
INPUTS, OUTPUT = ("observation", "pixels"), "action"
_CHUNK = 20  # observations in memory at once: images of several cameras are a megabyte each

Seen = dict[str, np.ndarray]
Act = Callable[[Seen], np.ndarray]


class _Graph(nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def forward(self, observation: Tensor, pixels: Tensor | None = None) -> Tensor:
        policy, images = self._policy, {} if pixels is None else {"pixels": pixels}
        seen = TensorDict({"observation": observation, **images})
        return policy.apply(policy.params, policy.env_state, seen)


def write_graphs(
    policy: Policy, folder: Path, description: Mapping[str, Any], *, onnx: bool, torch_export: bool
) -> list[Path]:
    """Writes the requested graphs, compares them with the policy, and returns their paths.

    Args:
        policy: the policy, on the CPU in float32.
        folder: where to write.
        description: stored in the graphs under "spec.json".
        onnx: write `policy.onnx`.
        torch_export: write `policy.pt2`.

    Raises:
        ValueError: the policy plans several actions at once.
        RuntimeError: a written graph computes other actions than the policy.
    """
    if (chunk_size := policy.spec.network.chunk_size) > 1:
        raise ValueError(
            f"the policy plans {chunk_size} actions at once, and the graph has one: export it without --onnx and "
            "--torch_export, or train it with bc_network.chunk_size=1"
        )
    program, graphs = trace(policy), {}
    if onnx:
        graphs[ONNX] = write_onnx(program, folder / ONNX, description)
    if torch_export:
        graphs[TORCH_EXPORT] = write_torch_export(program, folder / TORCH_EXPORT, description)
    compare(policy, graphs)
    return [folder / name for name in graphs]


def trace(policy: Policy) -> torch.export.ExportedProgram:
    """The deterministic policy as a program of "observation" `[B, O]` float32, and "pixels" where it sees images."""
    batch = torch.export.Dim("batch", min=1)
    seen = example_observation(policy.spec.env)
    arrays = [seen["observation"], seen["pixels"]] if policy.spec.env.pixels else [seen]
    example = tuple(torch.from_numpy(np.stack([array, array])) for array in arrays)
    with torch.no_grad():
        return torch.export.export(_Graph(policy), example, dynamic_shapes=[{0: batch}] * len(example))


def write_torch_export(
    program: torch.export.ExportedProgram, path: Path, description: Mapping[str, Any]
) -> Act:
    """Writes the program of `trace` as a .pt2 file, and returns what the file computes.

    Args:
        program: what to write.
        path: the .pt2 file.
        description: what goes into the file's extra files, as JSON under "spec.json".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights in channels-last order
        torch.export.save(program, path, extra_files={SPEC: json.dumps(description)})
    module = torch.export.load(path).module()

    def act(seen: Seen) -> np.ndarray:
        with torch.no_grad():
            action = module(*(torch.from_numpy(seen[name]) for name in INPUTS if name in seen))
        return action.numpy()

    return act


def write_onnx(program: torch.export.ExportedProgram, path: Path, description: Mapping[str, Any]) -> Act:
    """Writes the program of `trace` as ONNX, and returns what onnxruntime computes by the file.

    Args:
        program: what to write; inputs keep their names, the output is "action" `[B, A]`.
        path: the .onnx file.
        description: what goes into the file's metadata, as JSON under "spec.json".
    """
    import onnx
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    # It tells four times that torchvision is not installed, which no policy needs.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program, output_names=[OUTPUT], dynamo=True, verbose=False, optimize=True
        )
    model = exported.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(model, {SPEC: json.dumps(description)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda seen: session.run([OUTPUT], seen)[0]


def compare(policy: Policy, graphs: Mapping[str, Act], count: int = SAMPLES) -> None:
    """Compares graphs with the policy on `count` random and `count` recorded observations, some in a batch as well.

    Args:
        policy: the policy, on the CPU in float32.
        graphs: what each file computes, by the file's name.
        count: of observations of each kind; a multiple of 20.

    Raises:
        RuntimeError: naming a file that computes other actions.
    """
    sources = [random_observations(policy, count)]
    if built_name(policy.spec.env.name) in list_names():  # not in a toy environment
        sources.append(record(policy, count))
    with tqdm(total=count * len(sources), desc="comparing", unit="observation", disable=None) as progress:
        for source in sources:
            for chunk, seen in enumerate(source):
                expected = policy(seen)
                for name, act in graphs.items():
                    rows = range(len(expected))
                    one_by_one = [act({key: of[row : row + 1] for key, of in seen.items()}) for row in rows]
                    _check_close(name, np.concatenate(one_by_one), expected)
                    if chunk == 0:
                        _check_close(name, act(seen), expected)
                progress.update(len(expected))


def random_observations(policy: Policy, count: int) -> Iterator[Seen]:
    """Random observations `[20, ...]`, `count` in all.

    Numbers have the mean and three times the deviation of those seen in training. Each image is noise with its own
    brightness and contrast.
    """
    env, normalizer = policy.spec.env, policy.env_state["observation"].numpy()
    loc, scale = (normalizer[name][: env.observation_dim] for name in ("loc", "scale"))
    rng = np.random.default_rng(0)
    for _ in range(count // _CHUNK):
        noise = rng.standard_normal((_CHUNK, env.observation_dim), np.float32)
        seen = {"observation": loc + 3.0 * scale * noise}
        if env.pixels is not None:
            around, contrast = 255.0 * rng.random((2, _CHUNK, len(env.pixels.cameras), 1, 1, 1))
            noise = rng.standard_normal((_CHUNK, *env.pixels.shape), np.float32)
            seen["pixels"] = (around + contrast * noise).clip(0, 255).astype(np.uint8)
        yield seen


def record(policy: Policy, count: int) -> Iterator[Seen]:
    """The first `count` observations of the policy's own episodes in RoboHive, `[20, ...]` at a time."""
    from rlhive.envs.robohive import RoboHive

    env = RoboHive(policy.spec.env.name, seed=0, pixels=policy.spec.env.pixels)
    observation = env.reset()
    try:
        for _ in range(count // _CHUNK):
            rows = []
            for _ in range(_CHUNK):
                images = {"pixels": env.render()} if env.spec.pixels else {}
                rows.append({"observation": observation, **images})
                result = env.step(policy(rows[-1]))
                observation = env.reset() if result.terminated or result.truncated else result.observation
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    finally:
        env.close()


def _check_close(name: str, actions: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(actions - expected).max()
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"{name}: its actions differ from the policy's by {error:.2g}, more than {TOLERANCE:.0e}"
        )
