"""policy.onnx and policy.pt2: the same actions as the policy, and onnxruntime alone is enough."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tensordict import TensorDict

from rlhive.core.errors import LoadError, NotFiniteError
from rlhive.core.run_spec import new_run_spec
from rlhive.envs.robohive import env_spec
from rlhive.policy_fn import load
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.bundle import Bundle, describe, write_bundle
from rlhive.policy_fn.bundle_files import file_record, spec_text
from rlhive.policy_fn.exporting import SAMPLES, _compare, sample_observations, write_onnx, write_torch_export
from rlhive.policy_fn.onnx_policy import load_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A bundle with both graphs, and the observations they were compared on; exporting takes seconds."""
    env = env_spec("FrankaReachRandom-v0")
    network = actor_critic(env, hidden_sizes=(32, 32))
    generator = torch.Generator().manual_seed(0)
    normalizer = {"loc": torch.ones(21), "scale": torch.full((21,), 0.7), "count": torch.tensor(10.0)}
    env_state = TensorDict({"observation": normalizer})
    spec = new_run_spec("sac", env, network, (1,))
    policy = load(network.init(generator), env_state, spec=spec)
    observations = sample_observations(policy)
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(policy, folder / "policy.onnx", observations, describe(spec, 1, 100))
    write_torch_export(policy, folder / "policy.pt2", observations)
    extras = [folder / "policy.onnx", folder / "policy.pt2"]
    write_bundle(folder / "bundle", Bundle(spec, policy.params, policy.env_state, 1, 100), extras)
    return folder / "bundle", observations


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "bundle")


def bind(bundle):
    """spec.json with the hash of policy.onnx as it is."""
    values = json.loads((bundle / "spec.json").read_text())
    del values["sha256"]
    values["files"]["policy.onnx"] = file_record(bundle / "policy.onnx")
    (bundle / "spec.json").write_text(spec_text(values))


def test_onnx_acts_as_torch_does_on_random_and_recorded_observations(exported):
    bundle, observations = exported
    assert observations.shape == (2 * SAMPLES, 21)
    assert len(np.unique(observations[SAMPLES:], axis=0)) == SAMPLES
    policy, graph = load(bundle), load_onnx(bundle)
    expected = policy(observations)
    np.testing.assert_allclose(graph(observations), expected, rtol=0, atol=1e-5)
    alone = np.stack([graph(observation) for observation in observations])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    assert graph.env == policy.spec.env
    assert graph.check(policy.spec.env) == []


def test_torch_export_acts_as_torch_does(exported):
    bundle, observations = exported
    program = torch.export.load(bundle / "policy.pt2").module()
    expected = load(bundle)(observations)
    for batch in (observations, observations[:1]):
        action = program(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(action, expected[: len(batch)], rtol=0, atol=1e-5)


def test_an_export_that_acts_otherwise_is_refused(exported):
    bundle, observations = exported
    policy = load(bundle)
    with pytest.raises(RuntimeError, match=r"policy.onnx: its actions differ from the policy's by 0\.1"):
        _compare("policy.onnx", policy, observations, lambda batch: policy(batch) + 0.1)
    with pytest.raises(RuntimeError, match="differ from the policy's by nan"):
        _compare("policy.onnx", policy, observations, lambda batch: policy(batch) * np.nan)


def test_metadata_says_what_it_is(exported):
    bundle, _ = exported
    [entry] = onnx.load(bundle / "policy.onnx").metadata_props
    values = json.loads((bundle / "spec.json").read_text())
    assert entry.key == "spec.json"
    assert json.loads(entry.value) == {key: values[key] for key in values if key not in ("files", "sha256")}


def test_wrong_observations_and_dicts(exported):
    graph = load_onnx(exported[0])
    parts = {"reach_err": np.zeros(3), "qv_robot": np.ones(9), "qp_robot": np.zeros(9)}
    assert np.array_equal(graph(parts), graph(np.concatenate([np.zeros(9), np.ones(9), np.zeros(3)])))
    with pytest.raises(NotFiniteError, match=r"not finite at reach_err\[1\]"):
        graph({**parts, "reach_err": np.array([0.0, np.nan, 0.0])})
    with pytest.raises(ValueError, match="missing"):
        graph({"qp_robot": np.zeros(9)})


def test_damaged_and_foreign_graphs_are_refused(bundle):
    path = bundle / "policy.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LoadError, match=r"policy.onnx: its content is not what was exported"):
        load_onnx(bundle)
    path.write_bytes(content[: len(content) // 2])
    bind(bundle)
    with pytest.raises(LoadError, match=r"policy.onnx: ") as caught:
        load_onnx(bundle)
    assert "\n" not in str(caught.value)
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    bind(bundle)
    with pytest.raises(LoadError, match=r"is not of the policy that spec.json describes"):
        load_onnx(bundle)


def test_bundle_without_a_graph(bundle):
    values = json.loads((bundle / "spec.json").read_text())
    del values["sha256"], values["files"]["policy.onnx"]
    (bundle / "spec.json").write_text(spec_text(values))
    with pytest.raises(LoadError, match=r"has no policy.onnx; export it with --onnx"):
        load_onnx(bundle)
    assert load(bundle) is not None


SCRIPT = """
import sys, time
started = time.perf_counter()
import numpy as np
from rlhive.policy_fn.onnx_policy import load_onnx
policy = load_onnx(sys.argv[1])
assert time.perf_counter() - started < 5.0
stored = np.load(sys.argv[2])
action = np.stack([policy(observation) for observation in stored["observation"]])
assert np.abs(action - stored["action"]).max() <= 1e-5
assert not {"torch", "tensordict", "gin", "robohive", "torchrl", "mujoco"} & set(sys.modules)
print("equal")
"""


@pytest.mark.slow
def test_onnx_needs_neither_torch_nor_anything_else(exported, tmp_path):
    bundle, observations = exported
    stored = tmp_path / "stored.npz"
    np.savez(stored, observation=observations, action=load(bundle)(observations))
    uv, python = shutil.which("uv"), tmp_path / "venv/bin/python"
    subprocess.run([uv, "venv", f"--python={sys.executable}", tmp_path / "venv"], check=True)
    install = [uv, "pip", "install", f"--python={python}"]
    subprocess.run([*install, "numpy>=1.26,<2", "attrs", "onnxruntime"], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    result = subprocess.run(
        [python, "-c", SCRIPT, bundle, stored], capture_output=True, text=True, cwd=tmp_path, env=clean()
    )
    assert result.stdout == "equal\n", result.stderr


def clean():
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
