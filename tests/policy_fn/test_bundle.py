"""Bundles: what is written is what loads, and nothing else does."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from rlhive.core.pixel_spec import PixelSpec
from rlhive.evaluate import evaluate
from rlhive.export import export
from rlhive.policy_fn import LoadError, load
from rlhive.policy_fn.bundle import Bundle, read_bundle, write_bundle
from rlhive.policy_fn.bundle_files import spec_text
from tests.helpers import make_pixel_policy, rewrite

TREES = ("params.safetensors", "env_state.safetensors")
FILES = (*TREES, "spec.json")


@pytest.fixture
def bundle(make_run, tmp_path):
    export(make_run(seeds=(1, 2)).run_dir, tmp_path / "bundle", seed=2)
    return tmp_path / "bundle"


def observations(count, dim=21):
    return 3.0 * np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def bind(bundle, change=lambda values: None):
    """Writes spec.json anew, changed, with hashes that fit the files as they are."""
    values = json.loads((bundle / "spec.json").read_text())
    del values["sha256"]
    for name in TREES:
        content = (bundle / name).read_bytes()
        values["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(values)
    (bundle / "spec.json").write_text(spec_text(values))


def refuse(bundle, message="."):
    """The error is one line, quick, and names a file of the bundle."""
    started = time.perf_counter()
    with pytest.raises(LoadError, match=message) as caught:
        load(bundle)
    assert time.perf_counter() - started < 1.0
    assert "\n" not in str(caught.value)
    assert any(name in str(caught.value) for name in FILES), caught.value
    return str(caught.value)


def test_bundle_acts_as_the_run_does_bit_for_bit(make_run, tmp_path):
    run = make_run(seeds=(1, 2))
    export(run.run_dir, tmp_path / "bundle", seed=2)
    expected, policy = load(run.run_dir, seed=2), load(tmp_path / "bundle")
    assert policy.spec == run.spec
    assert set(policy.params.keys()) == {"actor"}
    for observation in observations(50):
        assert np.array_equal(policy(observation), expected(observation))
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted(FILES)


def test_description_says_all_that_a_robot_needs_to_know(bundle, franka_spec):
    values = json.loads((bundle / "spec.json").read_text())
    assert values["observation"] == [
        {"name": "qp_robot", "shape": [9], "dtype": "float32", "slice": [0, 9]},
        {"name": "qv_robot", "shape": [9], "dtype": "float32", "slice": [9, 18]},
        {"name": "reach_err", "shape": [3], "dtype": "float32", "slice": [18, 21]},
    ]
    assert values["action"][8] == {"name": "actuator8", "low": -1.0, "high": 1.0, "scale": 1.0}
    wanted = {"bundle_version": 1, "algorithm": "sac", "environment": franka_spec.name, "dt": 0.08}
    wanted |= {"encoder": None, "cameras": [], "image_size": None, "seed": 2, "step": 100}
    assert {name: values[name] for name in wanted} == wanted
    assert {"robohive", "rlhive-torch"} <= set(values["versions"])


def test_existing_directory_is_not_overwritten_and_failures_leave_nothing(make_run, tmp_path):
    run_dir = make_run(seeds=(1, 2)).run_dir
    (tmp_path / "there").mkdir()
    with pytest.raises(LoadError, match="is there already"):
        export(run_dir, tmp_path / "there", seed=1)
    with pytest.raises(LoadError, match="choose one with seed="):
        export(run_dir, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]


def test_what_would_not_be_read_is_not_written(bundle, tmp_path, monkeypatch):
    content = read_bundle(bundle)
    monkeypatch.setattr("rlhive.policy_fn.bundle_files.MAX_FILE_BYTES", 1000)
    (tmp_path / "policy.onnx").write_bytes(bytes(1001))
    with monkeypatch.context() as patch:
        patch.setattr("rlhive.policy_fn.bundle.file_record", lambda path: pytest.fail(f"{path} is hashed"))
        with pytest.raises(LoadError, match=r"/large/params\.safetensors: has \d+ bytes, more than the 1000"):
            write_bundle(tmp_path / "large", content)
        patch.setattr(
            "rlhive.policy_fn.bundle.write_tree", lambda path, *_: pytest.fail(f"{path} is written")
        )
        with pytest.raises(LoadError, match=r"/large/policy\.onnx: has 1001 bytes, more than the 1000"):
            write_bundle(tmp_path / "large", content, [tmp_path / "policy.onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "policy.onnx", "run"]


def test_a_bundle_is_written_beside_what_a_killed_process_left_of_it(bundle, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".again[1].0f.{os.uname().nodename}.{ended.pid}.tmp").mkdir()
    write_bundle(tmp_path / "again[1]", read_bundle(bundle))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again[1]", "bundle", "run"]


def test_device_and_dtype(bundle):
    observation = observations(4)
    expected = load(bundle)(observation)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 0.1), (torch.float16, 0.01)):
        policy = load(bundle, device="cpu", dtype=dtype)
        assert policy.dtype == dtype
        for action in (policy(observation), np.stack([policy(one) for one in observation])):
            assert action.dtype == np.float32
            np.testing.assert_allclose(action, expected, atol=tolerance)
    with pytest.raises(LoadError, match="dtype must be one of"):
        load(bundle, dtype=torch.int64)
    if not torch.cuda.is_available():
        with pytest.raises(LoadError, match="device cuda"):
            load(bundle, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_the_same_actions(bundle):
    observation = observations(4)
    policy = load(bundle, device="cuda")
    np.testing.assert_allclose(policy(observation), load(bundle)(observation), atol=1e-4)
    assert policy(torch.from_numpy(observation).cuda()).device.type == "cuda"


def test_batches_can_be_vmapped(bundle):
    policy = load(bundle)
    observation = torch.from_numpy(observations(6)).unsqueeze(1)
    mapped = torch.func.vmap(lambda one: policy.apply(policy.params, policy.env_state, one))(observation)
    torch.testing.assert_close(mapped.squeeze(1), policy(observation.squeeze(1)))


def test_a_bundle_has_one_seed_and_step(bundle):
    with pytest.raises(LoadError, match="which cannot be chosen"):
        load(bundle, seed=2)
    with pytest.raises(LoadError, match="has its own description; leave out spec"):
        load(bundle, spec=load(bundle).spec)


def test_trees_of_a_bundle_do_not_load_around_its_description(bundle):
    with pytest.raises(LoadError, match="holds 'bundle_params'"):
        load(bundle / "params.safetensors", bundle / "env_state.safetensors")
    (bundle / "spec.json").unlink()
    with pytest.raises(LoadError, match="holds 'bundle_params'"):
        load(bundle)


@pytest.mark.parametrize(
    ("size", "message"),
    [(10**9, "has shape"), (10**18, "of ActorCritic cannot be laid out"), (10**30, "cannot be laid out")],
)
def test_networks_of_absurd_size_take_no_memory(bundle, size, message):
    bundle_of = read_bundle(bundle)
    network = attrs.evolve(bundle_of.spec.network, hidden_sizes=(size, size))
    shutil.rmtree(bundle)
    write_bundle(bundle, bundle_of._replace(spec=attrs.evolve(bundle_of.spec, network=network)))
    refuse(bundle, message)


@pytest.mark.parametrize("name", TREES)
def test_missing_and_foreign_files(bundle, name, tmp_path):
    path = bundle / name
    content = path.read_bytes()
    path.unlink()
    refuse(bundle, f"{name}: there is no such file")
    path.mkdir()
    refuse(bundle, f"{name}: there is no such file")
    path.rmdir()
    os.mkfifo(path)
    refuse(bundle, f"{name}: there is no such file")
    path.unlink()
    path.write_bytes(content + b"\0")
    refuse(bundle, "bytes instead of")


def test_files_that_fit_their_hashes_but_not_each_other(bundle, make_run, tmp_path):
    export(make_run("again").run_dir, tmp_path / "other")
    shutil.copy(tmp_path / "other" / TREES[1], bundle / TREES[1])
    refuse(bundle, "env_state.safetensors: (its content is not what was exported|has .* bytes instead of)")
    bind(bundle)
    refuse(bundle, "env_state.safetensors: is not bundle_env_state of the policy that spec.json describes")


@pytest.mark.parametrize("part", [0, 1])
def test_changed_trees_with_right_hashes(bundle, part):
    path, leaf = bundle / TREES[part], ("actor/layer_1/bias", "observation/scale")[part]
    content = path.read_bytes()

    def changed(change, message):
        path.write_bytes(content)
        rewrite(path, change)
        bind(bundle)
        assert path.name in refuse(bundle, message)

    def rename(tensors, header):
        tensors["other"] = tensors.pop(leaf)
        header["keys"] = json.dumps(list(tensors))

    changed(rename, f"missing {leaf}; unexpected other")
    changed(lambda tensors, header: tensors.update({leaf: torch.zeros(7)}), f"{leaf} has shape")
    changed(lambda tensors, header: tensors[leaf].fill_(float("nan")), f"{leaf} holds values")
    changed(lambda tensors, header: tensors.update({leaf: tensors[leaf].double()}), "is torch.float64")
    changed(lambda tensors, header: header.update(kind="params"), "is not bundle_")
    changed(lambda tensors, header: header.update(keys="[" * 100_000), "no valid 'keys'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["observation"].reverse(), "'observation' does not fit"),
        (lambda v: v["action"][0].update(high=2.0), "'action' does not fit"),
        (lambda v: v["run"]["env"].update(dt=0.1), "'dt' does not fit"),
        (lambda v: v.update(dt=0.1), "'dt' does not fit"),
        (lambda v: v["run"]["env"].update(dt=float("nan")), "does not fit"),
        (lambda v: v["run"]["env"]["action_low"].__setitem__(0, float("-inf")), "both finite"),
        (lambda v: v["run"]["env"]["observation_slices"].__setitem__(1, [6, 18]), "must follow one another"),
        (
            lambda v: v["run"]["network"].update(hidden_sizes=[10**9]),
            "of the policy that spec.json describes",
        ),
        (lambda v: v["run"]["network"].update(num_critics=10**12), "does not fit"),
        (lambda v: v["run"]["network"].update(activation="elu"), "of the policy that spec.json describes"),
        (lambda v: v["run"].update(algorithm="ppo"), "unknown algorithm 'ppo'"),
        (lambda v: v.update(seed="2"), "whole numbers"),
        (lambda v: v.update(more=1), "unexpected more"),
        (lambda v: v.pop("cameras"), "missing cameras"),
        (lambda v: v.pop("run"), "has no run"),
        (lambda v: v.update(files=[]), "has no run or no files"),
        (lambda v: v["files"].pop(TREES[0]), "missing params.safetensors"),
        (lambda v: v["files"].update({TREES[0]: "x"}), "does not say its size"),
        (lambda v: v.update(bundle_version=2), "unknown bundle version 2"),
        (lambda v: v.update(bundle_version=True), "unknown bundle version True"),
    ],
)
def test_changed_descriptions_with_right_hashes(bundle, change, message):
    bind(bundle, change)
    refuse(bundle, message)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def sparse(path):
    """2 GB of a tensor of zeros that take no space on disk."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 29], "data_offsets": [0, 1 << 31]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 31))


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 26))


DISGUISES = {
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "torch archive": lambda path: torch.save({"x": Bomb()}, path),
    "zip bomb": zip_bomb,
    "sparse": sparse,
    "huge header": lambda path: path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
    "nested": lambda path: path.write_bytes(b"[" * 500_000),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_disguises_are_refused_even_with_right_hashes(bundle, name, disguise):
    DISGUISES[disguise](bundle / name)
    refuse(bundle, name)
    if name != "spec.json" and disguise != "sparse":
        bind(bundle)
        assert name in refuse(bundle)


MUTATIONS = """
import random, resource, sys, time
from pathlib import Path
import rlhive
from rlhive.policy_fn import LoadError, load
sys.path.insert(0, sys.argv[3])
from tests.policy_fn.mutations import mutate
bundle, count = Path(sys.argv[1]), int(sys.argv[2])
load(bundle)
originals = {path.name: path.read_bytes() for path in bundle.iterdir()}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
slowest = 0.0
for seed in range(count):
    what = mutate(bundle, originals, random.Random(seed))
    started = time.process_time()  # which other processes do not make longer
    try:
        load(bundle)
    except LoadError as error:
        assert "\\n" not in str(error) and any(name in str(error) for name in originals), (seed, what, error)
    else:
        raise AssertionError(f"{seed}: {what} was loaded")
    slowest = max(slowest, time.process_time() - started)
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert slowest < 1.0, slowest
assert growth < 100_000, growth
print("all refused")
"""


def refuse_mutations(bundle, count):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", MUTATIONS, bundle, str(count), root]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.stdout == "all refused\n", result.stderr


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_bundles_are_refused(bundle, count):
    refuse_mutations(bundle, count)


@pytest.mark.slow
def test_mutated_bundles_of_policies_that_see_are_refused(franka_spec, tmp_path):
    env = attrs.evolve(franka_spec, pixels=PixelSpec(("top_cam",), 24, 24))
    policy = make_pixel_policy(env)
    write_bundle(tmp_path / "bundle", Bundle(policy.spec, policy.params, policy.env_state, 1, 100))
    refuse_mutations(tmp_path / "bundle", 500)


def test_evaluation_of_a_bundle_is_that_of_its_run(make_run, tmp_path):
    from rlhive.envs.robohive import env_spec

    run_dir = make_run(env=env_spec("FrankaReachRandom-v0")).run_dir
    export(run_dir, tmp_path / "bundle")
    of_run, of_bundle = evaluate(run_dir, 3, 1), evaluate(tmp_path / "bundle", 3, 1)
    assert of_bundle.pop("run_dir") != of_run.pop("run_dir")
    assert of_bundle == of_run
