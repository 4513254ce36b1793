"""policy.onnx and policy.pt2: the same actions as the policy, and onnxruntime alone is enough."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import onnx
import pytest
import torch
from tensordict import TensorDict

from rlhive.core.errors import LoadError, NotFiniteError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.robohive import env_spec
from rlhive.policy_fn import exporting, load
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.bundle import Bundle, describe, write_bundle
from rlhive.policy_fn.bundle_files import file_record, spec_text
from rlhive.policy_fn.encoders import Flat
from rlhive.policy_fn.onnx_policy import load_onnx
from rlhive.policy_fn.r3m import R3M
from rlhive.runs.run_spec import new_run_spec
from tests.helpers import make_pixel_policy
from tests.policy_fn.test_imports import NOT_NEEDED, WITHOUT

ROOT = Path(__file__).parents[2]


def bundle_with_graphs(policy, folder):
    """The bundle, compared as the command does it but on fewer observations."""
    description = describe(policy.spec, 1, 100)
    program = exporting.trace(policy)
    onnx_act = exporting.write_onnx(program, folder / "policy.onnx", description)
    acts = {"policy.onnx": onnx_act}
    acts["policy.pt2"] = exporting.write_torch_export(program, folder / "policy.pt2", description)
    exporting.compare(policy, acts, 40)
    bundle = Bundle(policy.spec, policy.params, policy.env_state, 1, 100)
    write_bundle(folder / "bundle", bundle, [folder / name for name in acts])
    return folder / "bundle"


@pytest.fixture(scope="module")
def installed():
    return env_spec("FrankaReachRandom-v0")


@pytest.fixture(scope="module")
def exported(installed, tmp_path_factory):
    """A bundle with both graphs, and observations to compare on; exporting takes seconds."""
    network = actor_critic(installed, hidden_sizes=(32, 32))
    generator = torch.Generator().manual_seed(0)
    normalizer = {"loc": torch.ones(21), "scale": torch.full((21,), 0.7), "count": torch.tensor(10.0)}
    env_state = TensorDict({"observation": normalizer})
    spec = new_run_spec("sac", installed, network)
    policy = load(network.init(generator), env_state, spec=spec)
    sources = (exporting.random_observations(policy, 1000), exporting.record(policy, 1000))
    observations = np.concatenate([seen["observation"] for source in sources for seen in source])
    return bundle_with_graphs(policy, tmp_path_factory.mktemp("onnx")), observations


@pytest.fixture(scope="module")
def seeing(installed, tmp_path_factory):
    """The same of a policy that sees two cameras through a small CNN."""
    env = attrs.evolve(installed, pixels=PixelSpec(("top_cam", "left_cam"), 24, 32, "fast", frames=2))
    return bundle_with_graphs(make_pixel_policy(env), tmp_path_factory.mktemp("seeing"))


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
    assert observations.shape == (2 * exporting.SAMPLES, 21) == (2000, 21)
    assert len(np.unique(observations[1000:], axis=0)) == 1000
    policy, graph = load(bundle), load_onnx(bundle)
    expected = policy(observations)
    np.testing.assert_allclose(graph(observations), expected, rtol=0, atol=1e-5)
    alone = np.stack([graph(observation) for observation in observations])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    assert graph.env == policy.spec.env
    assert graph.check(policy.spec.env) == []


def test_torch_export_acts_as_torch_does(exported):
    bundle, observations = exported
    written = {"spec.json": ""}
    program = torch.export.load(bundle / "policy.pt2", extra_files=written).module()
    assert written["spec.json"] == json.dumps(describe(load(bundle).spec, 1, 100))
    expected = load(bundle)(observations)
    for batch in (observations, observations[:1]):
        action = program(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(action, expected[: len(batch)], rtol=0, atol=1e-5)


def test_an_export_that_acts_otherwise_is_refused(exported):
    policy = load(exported[0])
    counts = []

    def act(seen):
        counts.append(len(seen["observation"]))
        return policy(seen)

    exporting.compare(policy, {"policy.onnx": act}, 40)
    assert (counts.count(1), counts.count(20), len(counts)) == (80, 2, 82)
    with pytest.raises(RuntimeError, match=r"policy.onnx: its actions differ from the policy's by 0\.1"):
        exporting.compare(policy, {"policy.onnx": lambda seen: policy(seen) + 0.1}, 20)
    with pytest.raises(RuntimeError, match="differ from the policy's by nan"):
        exporting.compare(policy, {"policy.onnx": lambda seen: policy(seen) * np.nan}, 20)


def images(env, rng, steps):
    return {
        "observation": rng.normal(size=(*steps, env.observation_dim)).astype(np.float32),
        "pixels": rng.integers(256, size=(*steps, *env.pixels.shape), dtype=np.uint8),
    }


def test_graphs_see_images_as_the_policy_does(seeing):
    policy, graph = load(seeing), load_onnx(seeing)
    program = torch.export.load(seeing / "policy.pt2").module()
    rng = np.random.default_rng(0)
    for steps in ((), (1,), (3,), (2, 2)):
        seen = images(graph.env, rng, steps)
        np.testing.assert_allclose(graph(seen), policy(seen), rtol=0, atol=1e-5)
    seen = images(graph.env, rng, (3,))
    traced = program(torch.from_numpy(seen["observation"]), torch.from_numpy(seen["pixels"]))
    np.testing.assert_allclose(traced.numpy(), policy(seen), rtol=0, atol=1e-5)
    first = {name: value[0] for name, value in seen.items()}
    parts = graph.env.observation_keys, graph.env.observation_slices
    by_name = {key: first["observation"][slice(*place)] for key, place in zip(*parts, strict=True)}
    assert np.array_equal(graph({**by_name, "pixels": first["pixels"]}), graph(first))
    assert graph.description["cameras"] == ["top_cam", "left_cam"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seen: seen["observation"], "must be a mapping with"),
        (lambda seen: {**seen, "pixels": seen["pixels"] / 255.0}, "pixels must be uint8"),
        (lambda seen: {**seen, "pixels": seen["pixels"][:, :12]}, "pixels must be uint8"),
        (lambda seen: {**seen, "pixels": seen["pixels"][None]}, r"of \[1\] steps, the observation of \[\]"),
        (lambda seen: {**seen, "observation": np.full(21, np.nan)}, "not finite at qp_robot"),
    ],
)
def test_wrong_images_are_refused_by_policy_and_graph_alike(seeing, change, message):
    policy, graph = load(seeing), load_onnx(seeing)
    wrong = change(images(graph.env, np.random.default_rng(0), ()))
    for act in (policy, graph):
        with pytest.raises(ValueError, match=message):
            act(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("encoder", [R3M("r3m18", "random"), R3M("rrl34", "random", False), Flat()])
def test_every_encoder_is_in_the_graph(installed, tmp_path, encoder, size):
    env = attrs.evolve(installed, pixels=PixelSpec(("top_cam",), size, size, "fast"))
    policy = make_pixel_policy(env, encoder)
    graph = load_onnx(bundle_with_graphs(policy, tmp_path))
    seen = images(env, np.random.default_rng(0), (2,))
    np.testing.assert_allclose(graph(seen), policy(seen), rtol=0, atol=1e-5)


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


def test_an_empty_batch_and_tensors_are_as_with_the_policy(exported, seeing):
    graph, policy = load_onnx(exported[0]), load(exported[0])
    for shape in ((0, 21), (3, 0, 21)):
        empty = np.zeros(shape, np.float32)
        assert graph(empty).shape == policy(empty).shape == (*shape[:-1], 9)
    tensor = torch.ones(2, 21, requires_grad=True)
    parts = {"qp_robot": tensor[:, :9], "qv_robot": tensor[:, 9:18], "reach_err": tensor[:, 18:]}
    for observation in (tensor, parts, TensorDict(parts, [2])):
        assert np.array_equal(graph(observation), graph(np.ones((2, 21), np.float32)))
    env = load(seeing).spec.env
    nothing = {
        "observation": np.zeros((0, 21), np.float32),
        "pixels": np.zeros((0, *env.pixels.shape), np.uint8),
    }
    assert load_onnx(seeing)(nothing).shape == load(seeing)(nothing).shape == (0, 9)


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
import sys
import numpy as np
from rlhive.policy_fn.onnx_policy import load_onnx
policy = load_onnx(sys.argv[1])
stored = dict(np.load(sys.argv[2]))
actions = stored.pop("action")
for index, action in enumerate(actions):
    seen = {key: value[index] for key, value in stored.items()}
    assert np.abs(policy(seen) - action).max() <= 1e-5
print("equal")
"""


@pytest.fixture(params=["state", "images"])
def deployed(request, exported, seeing, tmp_path):
    """A bundle with a graph, and a file of what it sees and does."""
    bundle, seen = exported[0], {"observation": exported[1][:200]}
    if request.param == "images":
        bundle = seeing
        seen = images(load(bundle).spec.env, np.random.default_rng(0), (20,))
    np.savez(tmp_path / "stored.npz", **seen, action=load(bundle)(seen))
    return bundle, tmp_path / "stored.npz"


def test_onnx_acts_where_torch_cannot_be_imported(deployed):
    absent = ",".join((*NOT_NEEDED, "torch", "triton", "tensordict", "safetensors"))
    command = [sys.executable, "-c", WITHOUT + SCRIPT, *deployed, absent]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr


@pytest.mark.slow
def test_onnx_needs_neither_torch_nor_anything_else(deployed, tmp_path):
    uv, python = shutil.which("uv"), tmp_path / "venv/bin/python"
    subprocess.run([uv, "venv", f"--python={sys.executable}", tmp_path / "venv"], check=True)
    install = [uv, "pip", "install", f"--python={python}"]
    subprocess.run([*install, "numpy>=1.26,<2", "attrs", "onnxruntime"], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    result = subprocess.run(
        [python, "-c", SCRIPT, *deployed], capture_output=True, text=True, cwd=tmp_path, env=clean()
    )
    assert result.stdout == "equal\n", result.stderr


def clean():
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
