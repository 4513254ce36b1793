import json
import pickle
import shutil
import subprocess
import sys

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tensordict import TensorDict
from torch.func import vmap

from rlhive.core.normalizer import normalize
from rlhive.policy_fn import LoadError, load
from tests.helpers import rewrite


def files(run, seed=None):
    folder = run.run_dir / "checkpoints/100"
    folder = folder if seed is None else folder / f"seed_{seed}"
    return folder / "params.safetensors", folder / "env_state.safetensors"


def trees(run, index=0):
    return run.state["params"][index].clone(), run.state["env_state"][index].clone()


def observations(*shape):
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def refuse(message, *arguments, **keywords):
    with pytest.raises(LoadError, match=message) as caught:
        load(*arguments, **keywords)
    assert "\n" not in str(caught.value)


# What the policy computes


def store_actions(run, path):
    """Saves observations, and the actions that the training loop's own functions give for them."""
    network, (params, env_state) = run.spec.network, (run.state["params"], run.state["env_state"])
    observation, noise = observations(len(run.seeds), 4, 21), observations(len(run.seeds), 4, 9)

    def act(params, env_state, observation):
        return network.mode(params["actor"], normalize(env_state["observation"], observation))

    def sample(params, env_state, observation, noise):
        return network.sample(params["actor"], normalize(env_state["observation"], observation), noise)[0]

    action = vmap(act)(params, env_state, observation)
    sampled = vmap(sample)(params, env_state, observation, noise)
    stored = {"observation": observation, "noise": noise, "action": action, "sampled": sampled}
    save_file({name: values.contiguous() for name, values in stored.items()}, path)


def test_actions_equal_those_of_training_bit_for_bit_in_another_process(make_run):
    runs = [make_run("alone"), make_run("several", seeds=(1, 2, 10))]
    for run in runs:
        store_actions(run, run.run_dir / "stored.safetensors")
    script = """
import sys
import rlhive
import torch
from safetensors.torch import load_file
from rlhive.policy_fn import load
for run_dir, seeds in zip(sys.argv[1:], [(1,), (1, 2, 10)], strict=True):
    stored = load_file(f"{run_dir}/stored.safetensors")
    for index, seed in enumerate(seeds):
        policy = load(run_dir, seed=seed)
        observation, noise = stored["observation"][index], stored["noise"][index]
        assert torch.equal(policy(observation), stored["action"][index]), seed
        assert torch.equal(policy(observation, noise), stored["sampled"][index]), seed
print("equal")
"""
    command = [sys.executable, "-c", script, *(str(run.run_dir) for run in runs)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr


def test_actions_of_many_observations_lie_in_memory_row_by_row(make_run):
    policy = load(make_run("alone").run_dir)
    observation, noise = observations(1, 4, 21)[0], observations(1, 4, 9)[0]
    assert policy(observation).is_contiguous() and policy(observation, noise).is_contiguous()
    assert policy.apply(policy.params, policy.env_state, observation).is_contiguous()


def test_run_files_and_trees_give_the_same_policy(make_run):
    run = make_run()
    params, env_state = trees(run)
    observation = observations(5, 21)
    expected = load(run.run_dir)(observation)
    checkpoint = run.run_dir / "checkpoints/100"
    for policy in (
        load(str(run.run_dir), seed=1, step=100),
        load(checkpoint),
        load(*files(run)),
        load(params, env_state, spec=run.spec),
        load(params.select("actor"), env_state, spec=run.spec),
        load(files(run)[0], env_state),
        load(params, files(run)[1]),
    ):
        assert torch.equal(policy(observation), expected)
        assert policy.spec == run.spec


def test_spec_json_serves_two_trees(make_run, tmp_path):
    run = make_run()
    (tmp_path / "spec.json").write_text(run.spec.to_json())
    policy = load(*trees(run), spec=tmp_path / "spec.json")
    assert policy.spec == run.spec


def test_seed_picks_its_own_policy(make_run):
    run = make_run(seeds=(1, 2, 10))
    observation = observations(3, 21)
    for index, seed in enumerate(run.seeds):
        params, env_state = trees(run, index)
        expected = run.spec.network.mode(params["actor"], normalize(env_state["observation"], observation))
        assert torch.equal(load(run.run_dir, seed=seed)(observation), expected)
        assert torch.equal(load(*files(run, seed))(observation), expected)


def test_array_in_array_out_and_any_leading_shape(make_run):
    policy = load(make_run().run_dir)
    observation = observations(2, 3, 21)
    action = policy(observation)
    assert isinstance(action, torch.Tensor)
    assert (action.shape, action.dtype) == ((2, 3, 9), torch.float32)
    array = policy(observation.numpy().astype(np.float64))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert np.array_equal(array, action.numpy())
    assert policy(observation[0, 0]).shape == (9,)
    assert torch.equal(policy(observation[0, 0]), policy(observation[0, :1])[0])
    assert policy(torch.zeros(0, 21)).shape == (0, 9)


def test_dict_by_observation_key(make_run):
    policy = load(make_run().run_dir)
    observation = observations(6, 21)
    parts = {
        "reach_err": observation[:, 18:],
        "qp_robot": observation[:, :9],
        "qv_robot": observation[:, 9:18],
    }
    assert torch.equal(policy(parts), policy(observation))
    assert torch.equal(policy(TensorDict(parts, [6])), policy(observation))
    arrays = {key: part[0].numpy().astype(np.float64) for key, part in parts.items()}
    arrays["qp_robot"] = arrays["qp_robot"].reshape(3, 3)  # RoboHive's parts may have any shape
    assert np.array_equal(policy(arrays), policy(observation[0].numpy()))
    backwards = {key: part.numpy()[::-1] for key, part in parts.items()}
    assert np.array_equal(policy(backwards), policy(observation.flip(0)).numpy())


def test_actions_stay_within_uneven_limits_for_any_observation(make_run, franka_spec):
    low, high = (-0.3, *[-2.0] * 8), (0.1, *[5.0] * 8)
    policy = load(make_run(env=attrs.evolve(franka_spec, action_low=low, action_high=high)).run_dir)
    action = policy(1e6 * observations(100, 21), 50.0 * observations(100, 9))
    assert (action >= torch.tensor(low)).all()
    assert (action <= torch.tensor(high)).all()
    assert action.std(0).min() > 0.0


def test_deterministic_unless_noise_is_passed(make_run):
    policy = load(make_run().run_dir)
    observation, noise = observations(4, 21), observations(4, 9)
    assert torch.equal(policy(observation), policy(observation))
    assert torch.equal(policy(observation, noise), policy(observation, noise.numpy()))
    assert not torch.equal(policy(observation, noise), policy(observation))
    with pytest.raises(ValueError, match=r"noise must have shape \[4, 9\], got \[9\]"):
        policy(observation, noise[0])
    backwards = {"observation": observation.numpy()[::-1], "noise": noise.numpy()[::-1]}
    assert np.array_equal(policy(**backwards), policy(observation.flip(0), noise.flip(0)).numpy())
    with pytest.raises(ValueError, match="noise is not finite"):
        policy(observation, noise.log())


def test_observation_is_normalised_exactly_once(make_run):
    run = make_run()
    params, env_state = trees(run)
    policy = load(run.run_dir)
    loc, scale = env_state["observation", "loc"], env_state["observation", "scale"]
    unit = observations(4, 21).clamp(-3, 3)
    expected = run.spec.network.mode(params["actor"], unit)
    assert torch.allclose(policy(unit * scale + loc), expected, atol=1e-5)
    assert not torch.allclose(policy(unit), expected, atol=1e-2)


def test_apply_is_pure_and_maps_over_seeds(make_run):
    run = make_run(seeds=(1, 2))
    policy = load(run.run_dir, seed=1)
    observation = observations(2, 4, 21)
    params, env_state = run.state["params"].lock_(), run.state["env_state"].lock_()
    mapped = torch.func.vmap(policy.apply)(params, env_state, observation)
    expected = torch.stack(
        [load(run.run_dir, seed=seed)(o) for seed, o in zip((1, 2), observation, strict=True)]
    )
    assert torch.allclose(mapped, expected, atol=1e-6)
    assert policy.params.is_locked
    assert list(policy.params.keys()) == ["actor"]


def test_later_training_does_not_reach_into_a_loaded_policy(make_run):
    run = make_run()
    params, env_state = trees(run)
    policy = load(params, env_state, spec=run.spec)
    before = policy(observations(3, 21))
    params["actor", "layer_0", "weight"].zero_()
    assert torch.equal(policy(observations(3, 21)), before)


# Observations that are refused


def test_not_finite_observation_names_its_entries(make_run):
    policy = load(make_run().run_dir)
    observation = observations(2, 21)
    observation[0, 4], observation[1, 20] = float("nan"), float("inf")
    message = r"^the observation is not finite at qp_robot\[4\], reach_err\[2\]$"
    for bad in (observation, observation.numpy(), observation.double().numpy()):
        with pytest.raises(ValueError, match=message):
            policy(bad)
    with pytest.raises(ValueError, match=r"qv_robot\[0\]$"):  # too large for float32
        policy(np.eye(21)[9] * 1e300)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (torch.zeros(20), r"observation must have shape \[21\], got \[20\]"),
        (torch.zeros(4, 22), r"observation must have shape \[4, 21\], got \[4, 22\]"),
        (torch.tensor(1.0), "observation must have shape"),
        ([0.0] * 21, "must be a tensor or an array, got list"),
        ({"qp_robot": np.zeros(9)}, r"missing \['qv_robot', 'reach_err'\]"),
        (
            {"qp_robot": np.zeros(9), "qv_robot": np.zeros(9), "reach_err": np.zeros(3), "time": 0.0},
            r"unexpected \['time'\]",
        ),
        (
            {"qp_robot": np.zeros(9), "qv_robot": np.zeros(9), "reach_err": np.zeros(4)},
            r"reach_err must have shape \[3\], got \[4\]",
        ),
        (
            {"qp_robot": np.zeros((2, 9)), "qv_robot": np.zeros(9), "reach_err": np.zeros((2, 3))},
            r"qv_robot must have shape \[2, 9\], got \[9\]",
        ),
    ],
)
def test_observation_that_does_not_fit_is_refused(make_run, observation, message):
    with pytest.raises(ValueError, match=message):
        load(make_run().run_dir)(observation)


# Files and trees that are refused


def test_several_seeds_need_a_choice(make_run):
    run = make_run(seeds=(1, 2, 10))
    one = run.run_dir / "checkpoints" / "100" / "seed_1"
    refuse(f"choose one with seed=: 1, 2, 10; or give the directory of one, such as {one}", run.run_dir)
    refuse("has no seed 3, but 1, 2, 10", run.run_dir, seed=3)
    refuse("has no seed 3, but 1", make_run("one").run_dir, seed=3)
    refuse("no such checkpoint; complete ones are: 100", run.run_dir, seed=1, step=200)


def test_missing_things_are_named(make_run, tmp_path):
    run = make_run()
    params, env_state = files(run)
    refuse("there is no such file or directory", tmp_path / "nowhere")
    refuse("env_state is missing", params)
    refuse("env_state is missing", trees(run)[0], spec=run.spec)
    refuse("pass spec=", *trees(run))
    refuse("cannot be read: No such file", tmp_path / "params.safetensors", env_state)
    refuse("cannot be read", params, env_state, spec=tmp_path / "spec.json")
    refuse("is neither a checkpoint nor the directory of a run", tmp_path)
    refuse("cannot be read: Is a directory", params, run.run_dir)
    refuse("must be a path or a TensorDict, got dict", {}, env_state)
    refuse("seed and step choose", params, env_state, seed=1)
    refuse("cannot be chosen there", params.parent, step=100)


@pytest.mark.parametrize("part", [0, 1])
def test_missing_and_extra_keys_in_files(make_run, part):
    run = make_run()
    name = ("actor/layer_1/bias", "observation/scale")[part]

    def remove(tensors, header):
        del tensors[name]
        header["keys"] = json.dumps([key for key in json.loads(header["keys"]) if key != name])

    def add(tensors, header):
        header["keys"] = json.dumps([*json.loads(header["keys"]), name, "other/weight"])
        tensors.update({name: torch.zeros(2), "other/weight": torch.zeros(2)})

    rewrite(files(run)[part], remove)
    refuse(f"missing {name}", *files(run))
    rewrite(files(run)[part], add)
    refuse("unexpected other/weight", *files(run))


def test_tensors_that_the_header_does_not_list(make_run):
    run = make_run()
    rewrite(files(run)[0], lambda tensors, header: tensors.update({"actor/extra": torch.zeros(1)}))
    refuse("unexpected actor/extra", *files(run))


def test_missing_and_extra_keys_in_trees(make_run):
    run = make_run()
    params, env_state = trees(run)
    refuse("params: keys do not fit: missing actor/", params.exclude("actor"), env_state, spec=run.spec)
    refuse(
        "missing critic/layer_0/bias", params.exclude(("critic", "layer_0", "bias")), env_state, spec=run.spec
    )
    refuse("unexpected other", params.clone().set("other", torch.zeros(1)), env_state, spec=run.spec)
    refuse(
        "env_state: keys do not fit: missing observation/count",
        params,
        env_state.exclude(("observation", "count")),
        spec=run.spec,
    )


def test_wrong_shapes_dtypes_and_values_in_trees(make_run):
    run = make_run()
    weight, count = ("actor", "layer_0", "weight"), ("observation", "count")

    def changed(tree, key, value):
        return tree.clone().set(key, value)

    params, env_state = trees(run)
    refuse(
        r"weight has shape \[32, 20\], expected \[32, 21\]",
        changed(params, weight, torch.zeros(32, 20)),
        env_state,
        spec=run.spec,
    )
    refuse("of several seeds", run.state["params"], env_state, spec=run.spec)
    refuse(
        "weight is torch.float64, expected torch.float32",
        changed(params, weight, params[weight].double()),
        env_state,
        spec=run.spec,
    )
    refuse(
        "actor/layer_0/weight holds values that are not finite",
        changed(params, weight, params[weight] / 0.0),
        env_state,
        spec=run.spec,
    )
    refuse(
        "log_alpha holds values that are not finite",
        changed(params, "log_alpha", torch.tensor(float("nan"))),
        env_state,
        spec=run.spec,
    )
    refuse(
        "observation/loc has shape",
        params,
        changed(env_state, ("observation", "loc"), torch.zeros(20)),
        spec=run.spec,
    )
    refuse("count 0", params, changed(env_state, count, torch.zeros(())), spec=run.spec)
    scale = ("observation", "scale")
    refuse("negative values", params, changed(env_state, scale, -env_state[scale]), spec=run.spec)


@pytest.mark.parametrize("part", [0, 1])
def test_wrong_shapes_and_values_in_files(make_run, part):
    run = make_run()
    name = ("actor/layer_1/bias", "observation/scale")[part]
    rewrite(files(run)[part], lambda tensors, header: tensors[name].fill_(float("inf")))
    refuse(f"{name} holds values that are not finite", *files(run))
    rewrite(files(run)[part], lambda tensors, header: tensors.update({name: torch.zeros(3)}))
    refuse(f"{name} has shape", *files(run))


def test_env_state_of_another_environment_run_seed_or_step(make_run, franka_spec):
    run, again = make_run(seeds=(1, 2)), make_run("again")
    door = make_run("door", env=attrs.evolve(franka_spec, name="door-v1"))
    refuse("another environment \\(door-v1\\)", files(run, 1)[0], files(door)[1])
    refuse("another run", files(run, 1)[0], files(again)[1])
    refuse("another run", *files(again), spec=run.spec)
    refuse(r"another seed \(2\)", files(run, 1)[0], files(run, 2)[1])
    rewrite(files(run, 1)[1], lambda tensors, header: header.update(step="90"))
    refuse(r"another step \(90\)", *files(run, 1))


def test_files_in_the_wrong_place(make_run):
    params, env_state = files(make_run())
    refuse("holds 'env_state', but a file of 'params' is expected", env_state, params)


@pytest.mark.parametrize("part", [0, 1])
def test_unknown_format_version_and_foreign_files(make_run, part):
    path = files(make_run())[part]
    run = path.parents[2]
    rewrite(path, lambda tensors, header: header.update(format_version="2"))
    refuse("unknown format version '2', this version of rlhive reads 1", run)
    rewrite(path, lambda tensors, header: header.clear())
    refuse("unknown format version None", run)


def test_a_file_without_its_hash_is_refused(make_run):
    run = make_run()
    rewrite(files(run)[0], lambda tensors, header: header.pop("content_sha256"))
    refuse("damaged or changed", run.run_dir)


def test_headers_that_do_not_fit_themselves(make_run):
    run = make_run()
    rewrite(files(run)[0], lambda tensors, header: header.update(run_id="0" * 64))
    refuse("missing or inconsistent", run.run_dir)
    rewrite(files(run)[0], lambda tensors, header: header.update(spec="{}"))
    refuse("spec in its header: unknown format version None", run.run_dir)
    rewrite(files(run)[0], lambda tensors, header: header.pop("keys"))
    refuse("no valid 'keys'", run.run_dir)


def test_unknown_algorithm(make_run):
    run = make_run()
    words = "unknown algorithm 'ppo'; this version of rlhive has sac, bc, iql, td3_bc"
    path = run.run_dir / "spec.json"
    values = run.spec.to_dict()
    # Such networks may have settings that no other has.
    path.write_text(json.dumps(values | {"algorithm": "ppo", "network": values["network"] | {"rate": 0.1}}))
    refuse(words, *trees(run), spec=path)
    with pytest.raises(ValueError, match=words):
        attrs.evolve(run.spec, algorithm="ppo")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("part", [0, 1])
def test_pickles_are_refused_unopened(make_run, part):
    run = make_run()
    path = files(run)[part]
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        refuse("is a pickle", *files(run))
    for zipped in (True, False):
        torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
        refuse("is a pickle", *files(run))


def test_damaged_files(make_run):
    run = make_run()
    path = files(run)[0]
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 9):
        path.write_bytes(whole[:size])
        refuse("damaged or cut short", *files(run))
    for other in (b"", whole[:8], b"PNG, or text of any kind"):
        path.write_bytes(other)
        refuse("is not a safetensors file", *files(run))


@pytest.mark.parametrize("part", [0, 1])
def test_every_flipped_bit_is_noticed(make_run, part):
    run = make_run()
    path = files(run)[part]
    whole = path.read_bytes()
    numbers = 8 + int.from_bytes(whole[:8], "little")  # where the tensors begin, after the header
    for position in (numbers, numbers + 1, (numbers + len(whole)) // 2, len(whole) - 4):
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        refuse(f"{path.name}: damaged or changed", run.run_dir)
    path.write_bytes(whole.replace(b'\\"dt\\": 0.08', b'\\"dt\\": 0.09'))
    refuse(f"{path.name}: damaged or changed", run.run_dir)
    path.write_bytes(whole)
    rewrite(path, lambda tensors, header: None)
    assert load(run.run_dir).spec == run.spec  # older files have no hash


def test_copied_checkpoint_loads_elsewhere(make_run, tmp_path):
    run = make_run()
    shutil.copytree(run.run_dir / "checkpoints/100", tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").spec == run.spec
