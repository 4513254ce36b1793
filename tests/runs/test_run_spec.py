"""What a run is of, to JSON and back, for the networks of every algorithm."""

import json

import attrs
import pytest
import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS
from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import Flat, feature_dim
from rlhive.policy_fn.heads import HEADS
from rlhive.policy_fn.offline_network import bc_network
from rlhive.policy_fn.policy import Policy
from rlhive.policy_fn.single import make_single_apply
from rlhive.runs.run_spec import FORMAT_VERSION, DataSource, Origin, RunSpec, new_run_spec
from rlhive.training.resume import check_same

ORIGIN = Origin("runs/iql", "2" * 64, step=20)
SOURCE = DataSource("demo.h5", "0" * 64, trials=3, steps=150, left_out=("Trial1: cut short",))


def make_spec(algorithm, env, dataset=None, **settings):
    network = ALGORITHMS[algorithm].make_network(env, hidden_sizes=(8, 8), **settings)
    return new_run_spec(algorithm, env, network, dataset=dataset)


@pytest.mark.parametrize("dataset", [None, SOURCE])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_json_and_back(algorithm, dataset, franka_spec):
    spec = make_spec(algorithm, franka_spec, dataset)
    again = RunSpec.from_json(spec.to_json())
    assert again == spec and again.to_json() == spec.to_json()
    assert type(again.network) is ALGORITHMS[algorithm].network
    assert (json.loads(spec.to_json())["dataset"] is None) == (dataset is None)


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_part_of_it(head, franka_spec):
    spec = make_spec("bc", franka_spec, head=head)
    assert RunSpec.from_json(spec.to_json()).network.head == head


@pytest.mark.parametrize("name", ["encoder", "dataset", "origin"])
def test_what_there_is_not_is_null_and_never_missing(name, franka_spec):
    values = make_spec("sac", franka_spec).to_dict()
    assert values.pop(name) is None
    with pytest.raises(LoadError, match=f"RunSpec: keys do not fit: missing {name}"):
        RunSpec.from_dict(values)


@pytest.mark.parametrize(("part", "name"), [("env", "pixels"), ("network", "chunk_size")])
def test_nor_is_it_in_a_part(part, name, franka_spec):
    values = make_spec("bc", franka_spec).to_dict()
    del values[part][name]
    with pytest.raises(LoadError, match=f"keys do not fit: missing {name}"):
        RunSpec.from_dict(values)


def test_a_spec_of_the_format_before_is_refused(franka_spec):
    values = make_spec("sac", franka_spec).to_dict() | {"format_version": FORMAT_VERSION - 1}
    with pytest.raises(
        LoadError, match=f"unknown format version {FORMAT_VERSION - 1}, .* reads {FORMAT_VERSION}"
    ):
        RunSpec.from_dict(values)


def test_what_it_began_with_is_part_of_it(franka_spec):
    spec = attrs.evolve(make_spec("sac", franka_spec), origin=ORIGIN)
    assert RunSpec.from_json(spec.to_json()) == spec != attrs.evolve(spec, origin=None)
    assert attrs.evolve(ORIGIN, path="elsewhere") == ORIGIN != attrs.evolve(ORIGIN, step=40)
    assert attrs.evolve(spec, origin=None).to_dict()["origin"] is None
    with pytest.raises(LoadError, match=r"Origin: .*missing step"):
        RunSpec.from_dict({**spec.to_dict(), "origin": {"path": "runs/iql", "run_id": "2" * 64}})


def test_the_same_data_elsewhere_is_the_same():
    assert attrs.evolve(SOURCE, path="elsewhere.h5") == SOURCE
    assert attrs.evolve(SOURCE, sha256="1" * 64) != SOURCE
    assert attrs.evolve(SOURCE, trials=2) != SOURCE


def test_reasons_in_other_words_are_no_difference(franka_spec, tmp_path):
    other = attrs.evolve(SOURCE, left_out=("demo.h5: Trial1: cut short",))
    saved, now = (make_spec("bc", franka_spec, source) for source in (other, SOURCE))
    assert check_same(tmp_path, saved, now) is saved


def make_seeing_spec(env, encoder, pixels):
    env = attrs.evolve(env, pixels=pixels)
    network = ALGORITHMS["sac"].make_network(
        env, hidden_sizes=(8, 8), feature_dim=feature_dim(encoder, pixels)
    )
    return new_run_spec("sac", env, network, encoder)


def test_a_run_is_not_resumed_with_an_encoder_of_another_kind_or_without_images(franka_spec, tmp_path):
    pixels = PixelSpec(("top_cam",), 40, 40)
    sees, flat = (make_seeing_spec(franka_spec, encoder, pixels) for encoder in (CNN(40, 40), Flat()))
    blind = make_seeing_spec(franka_spec, None, None)
    for saved, now, words in (
        (sees, flat, r"another encoder: CNN\(height=40, .*\) there, Flat\(\) in the configuration"),
        (flat, sees, r"another encoder: Flat\(\) there, CNN\(height=40"),
        (sees, blind, r"another env: pixels is PixelSpec\(.*\) there, None in the configuration"),
        (blind, sees, r"another env: pixels is None there, PixelSpec\("),
    ):
        with pytest.raises(LoadError, match=words):
            check_same(tmp_path, saved, now)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(algorithm="sac"), "ActorCritic: .*unexpected chunk_size, head, parts"),
        (lambda values: values["network"].pop("head"), "OfflineNetwork: .*missing head"),
        (lambda values: values["network"].update(head="cauchy"), "does not fit"),
        (lambda values: values["dataset"].pop("sha256"), "DataSource: .*missing sha256"),
        (lambda values: values["dataset"].update(sha256="x"), "does not fit"),
        (lambda values: values.update(dataset=[]), "no valid description of DataSource"),
        (lambda values: values["env"].update(name=3), "must be <class 'str'>"),
        (lambda values: values["env"].update(action_names=[1] * 9), "action_names must be strings"),
        (
            lambda values: values["env"].update(observation_keys=["qp_robot", "qp_robot", "reach_err"]),
            "observation_keys must each be there once",
        ),
        (lambda values: values["env"].update(max_episode_steps="50"), "must be a whole number above 0"),
        (lambda values: values["env"].update(max_episode_steps=0.5), "must be a whole number above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, franka_spec):
    values = json.loads(make_spec("iql", franka_spec, SOURCE).to_json())
    change(values)
    with pytest.raises(LoadError, match=message):
        RunSpec.from_dict(values)


def test_the_network_of_another_algorithm_is_refused(franka_spec):
    with pytest.raises(ValueError, match="OfflineNetwork is not the network of sac"):
        attrs.evolve(make_spec("bc", franka_spec), algorithm="sac")


@pytest.mark.parametrize("head", HEADS)
def test_one_observation_at_a_time_gives_the_bits_of_the_general_function(head, franka_spec):
    network = bc_network(franka_spec, head=head, hidden_sizes=(16, 16))
    params = network.init(torch.Generator().manual_seed(0))
    constants = {"loc": torch.ones(21), "scale": torch.full((21,), 2.0), "count": torch.ones(())}
    env_state = TensorDict({"observation": constants})
    policy = Policy(new_run_spec("bc", franka_spec, network), params, env_state)
    act = make_single_apply(network, params, env_state)
    for observation in 3.0 * torch.randn(50, 1, 21, generator=torch.Generator().manual_seed(1)):
        assert torch.equal(act(observation), policy.apply(params, env_state, observation))
