"""The functions of a run: what reaches the loss and the policy, and that seeds do not touch each other."""

import pytest
import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS
from rlhive.config import load_config
from rlhive.core.keys import make_generators
from rlhive.core.random import Key
from rlhive.core.tree import stack_seeds
from rlhive.losses_fn import draw_sac_noise
from rlhive.training.learner import draw_by_key, keys_of, logged_metrics, make_learner, observe
from tests.helpers import make_batch, make_network, make_spec

SMALL = ["sac_network.hidden_sizes=(16,)", "train.batch_size=8", "train.compile=False"]


def learn(*bindings, seeds=(1,)):
    """Learner, generators and a state whose normaliser has seen observations far from standard."""
    config = load_config(["sac.gin"], [*SMALL, f"SEED={seeds[0]}", f"NUM_SEEDS={len(seeds)}", *bindings])
    learner = make_learner(config, make_spec())
    generators = [make_generators(seed) for seed in seeds]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    observations = torch.stack([3.0 + 5.0 * torch.randn(100, 5, generator=draw) for draw in draws])
    return config, learner, generators, observed(learner.init(generators), observations)


def observed(state, observation):
    return observe(state, state["env_state", "observation"].double(), observation)[0]


def batches(seeds=(1,)):
    return stack_seeds([make_batch(torch.Generator().manual_seed(10 + seed), 8) for seed in seeds])


def seen(observation):
    return TensorDict({"observation": observation}, batch_size=observation.shape[:2])


def by_hand(state, observation):
    """Normalised as the docstring of the normaliser says, for one seed."""
    normalizer = state["env_state", "observation"]
    return ((observation - normalizer["loc"]) / normalizer["scale"]).clamp(-10, 10)


def test_the_loss_sees_observations_normalised_once():
    config, learner, generators, state = learn()
    batch, noise = batches(), learner.draw_loss_noise(generators)
    one = batch[0].clone()
    one["observation"] = by_hand(state[0], one["observation"])
    one["next", "observation"] = by_hand(state[0], one["next", "observation"])
    loss_fn = config.make_loss(learner.network)
    expected, _ = loss_fn(state[0]["params"], state[0]["target_params"], one, noise[0])
    _, metrics = learner.train_step(state, batch, noise)
    torch.testing.assert_close(metrics["loss"][0], expected.detach(), rtol=1e-6, atol=1e-6)
    raw, _ = loss_fn(state[0]["params"], state[0]["target_params"], batch[0], noise[0])
    assert abs(float(raw) - float(expected)) > 1e-2  # else the check above proves nothing


def test_the_policy_sees_observations_normalised_once():
    _, learner, _, state = learn()
    draw = torch.Generator().manual_seed(0)
    observation, noise = torch.randn(1, 3, 5, generator=draw), torch.randn(1, 3, 2, generator=draw)
    actor, normalised = state[0]["params", "actor"], by_hand(state[0], observation[0])
    with torch.no_grad():
        mode = learner.network.mode(actor, normalised)
        sample = learner.network.sample(actor, normalised, noise[0])[0]
    torch.testing.assert_close(learner.plan(state, seen(observation))[0, :, 0], mode)
    torch.testing.assert_close(learner.act(state, seen(observation), noise)[0], sample)


def test_observing_changes_the_normaliser_alone():
    _, _, _, state = learn(seeds=(1, 2))
    before = state.clone()
    observation = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3))
    normalizer = state["env_state", "observation"].double().lock_()
    after, seen = observe(state.lock_(), normalizer, observation)
    assert after["env_state", "observation", "count"].tolist() == [104.0, 104.0]
    assert bool((after["env_state", "observation"] == seen.float()).all())
    for key in ("params", "target_params", "opt_state", "step"):
        assert bool((after[key] == before[key]).all())
    assert bool((state == before).all())


def test_what_an_observation_adds_is_kept_where_a_float32_mean_would_lose_it():
    _, _, _, state = learn()
    normalizer = state["env_state", "observation"].double()
    normalizer["loc"], normalizer["count"] = torch.full((1, 5), 1.6).double(), torch.tensor([2e5]).double()
    for _ in range(500):  # each moves the mean by 5e-8, less than half of its last digit in float32
        state, normalizer = observe(state, normalizer, torch.full((1, 1, 5), 1.61))
    assert state["env_state", "observation", "loc"].dtype == torch.float32
    expected = 1.6 + 0.01 * 500 / 200_500
    assert state["env_state", "observation", "loc"].tolist() == [pytest.approx([expected] * 5, abs=3e-7)]


def test_an_update_leaves_its_inputs_and_the_normaliser():
    _, learner, generators, state = learn()
    batch, noise = batches(), learner.draw_loss_noise(generators)
    before = state.clone()
    after, _ = learner.train_step(state.lock_(), batch.lock_(), noise.lock_())
    assert bool((state == before).all())
    assert bool((after["env_state"] == before["env_state"]).all())
    assert after["step"].tolist() == after["opt_state", "count"].tolist() == [1]
    assert not bool((after["params", "actor"] == before["params", "actor"]).all())


def test_the_target_moves_by_tau():
    _, learner, generators, state = learn("train.tau=0.25")
    after, _ = learner.train_step(state, batches(), learner.draw_loss_noise(generators))
    for old, new, target in zip(
        *(
            tree.values(True, True)
            for tree in (
                state["target_params", "critic"],
                after["params", "critic"],
                after["target_params", "critic"],
            )
        ),
        strict=True,
    ):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * new)


def test_seeds_side_by_side_equal_each_alone():
    seeds = (4, 7)
    _, learner, generators, state = learn(seeds=seeds)
    observation = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    noise = learner.draw_loss_noise(generators)
    after, metrics = learner.train_step(state, batches(seeds), noise)
    for index, seed in enumerate(seeds):
        _, alone, own, own_state = learn(seeds=(seed,))
        assert bool((own_state[0] == state[index]).all())  # drawn the same, bit for bit
        own_noise = alone.draw_loss_noise(own)
        assert bool((own_noise[0] == noise[index]).all())
        own_after, own_metrics = alone.train_step(own_state, batches((seed,)), own_noise)
        compare(own_after[0], after[index])
        compare(own_metrics[0], metrics[index])
        torch.testing.assert_close(
            alone.plan(own_state, seen(observation[index : index + 1]))[0],
            learner.plan(state, seen(observation))[index],
        )


def compare(one: TensorDict, other: TensorDict) -> None:
    assert set(one.keys(True, True)) == set(other.keys(True, True))
    for key in one.keys(True, True):
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


def test_metrics_are_named_for_the_log():
    _, learner, generators, state = learn(seeds=(1, 2))
    _, metrics = learner.train_step(state, batches((1, 2)), learner.draw_loss_noise(generators))
    named = logged_metrics(metrics)
    assert {"loss/actor", "loss/qvalue", "loss/alpha", "train/alpha", "train/entropy"} <= set(named)
    assert all(value.shape == (2,) for value in named.values())  # the TD errors [S, B] are left out
    assert "train/finite" not in named


def test_whole_numbers_are_logged_too():
    named = logged_metrics(TensorDict({"count": torch.tensor([3, 4]), "loss_x": torch.ones(2)}, [2]))
    assert list(named) == ["train/count", "loss/x"] and named["train/count"].tolist() == [3.0, 4.0]
    assert named["train/count"].dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"target_keys": ("critc",)},
            r"target_keys of mine name \['critc'\], but .* \['actor', 'critic', 'log",
        ),
        ({"policy_keys": ("critic",)}, r"policy_keys of mine must name 'actor'.*got \['critic'\]"),
        ({"policy_keys": ("actor", "head")}, r"policy_keys of mine must name 'actor'.*'head'"),
    ],
)
def test_keys_that_the_networks_have_not_are_refused_when_a_run_starts(monkeypatch, keys, words):
    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["sac"]._replace(**keys))
    config = load_config("sac.gin", "ALGORITHM='mine'")
    with pytest.raises(ValueError, match=words):
        make_learner(config, make_spec()).init([make_generators(1)])


def act_together_and_alone(*bindings, num_envs):
    """Actions of 17 seeds, as many as fill a vector, which could choose other kernels for them, and of each alone."""
    _, together, _, states = learn(*bindings, seeds=tuple(range(1, 18)))
    _, alone, _, _ = learn(*bindings)
    draw = torch.Generator().manual_seed(0)
    observation, noise = (
        torch.randn(17, num_envs, 5, generator=draw),
        torch.randn(17, num_envs, 2, generator=draw),
    )
    one_by_one = [
        alone.act(states[own : own + 1].clone(), seen(observation[own : own + 1]), noise[own : own + 1])
        for own in range(17)
    ]
    torch.testing.assert_close(
        alone.plan(states[3:4], seen(observation[3:4]))[0], together.plan(states, seen(observation))[3]
    )
    return together.act(states, seen(observation), noise), torch.cat(one_by_one)


@pytest.mark.parametrize(("activation", "layer_norm"), [("relu", False), ("tanh", False), ("relu", True)])
def test_actions_of_a_compiled_run_do_not_depend_on_how_many_seeds_there_are(activation, layer_norm):
    bindings = [
        "sac_network.hidden_sizes=(240, 48)",
        f"sac_network.activation='{activation}'",
        f"sac_network.actor_layer_norm={layer_norm}",
    ]
    together, alone = act_together_and_alone("train.compile=True", *bindings, num_envs=1)
    assert torch.equal(together, alone)
    eager, _ = act_together_and_alone(*bindings, num_envs=1)
    torch.testing.assert_close(together, eager)


def test_actions_of_odd_layers_depend_on_the_number_of_seeds_in_their_last_bits_alone():
    together, alone = act_together_and_alone("sac_network.hidden_sizes=(250, 37)", num_envs=3)
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-6)


def test_noise_drawn_from_a_key_is_that_of_the_updates_before():
    """As on a GPU, where the step draws the noise itself."""

    def report_noise(state, batch, noise):
        return state, noise

    def draw(key):
        return draw_sac_noise(key, network, 8)

    network, generator = make_network(), make_generators(3)["loss"]
    generator.manual_seed(5)
    step, own = draw_by_key(report_noise, draw), keys_of([generator])[0]
    before = generator.get_state()
    state = TensorDict({"step": torch.tensor(7)})
    _, found = step(state, TensorDict(), own.update({"shift": torch.ones(8, 2)}))
    expected = draw(Key(torch.tensor(5), torch.tensor(7)))
    assert set(found.keys()) == {"action", "next_action", "shift"}
    assert found["action"].equal(expected["action"]) and found["next_action"].equal(expected["next_action"])
    _, later = step(TensorDict({"step": torch.tensor(8)}), TensorDict(), keys_of([generator])[0])
    assert not later["action"].equal(found["action"])
    assert generator.get_state().equal(before)


def test_a_key_outlives_saving_and_use():
    generator, resumed = make_generators(3)["loss"], make_generators(4)["loss"]
    torch.randn(100, generator=generator)
    resumed.set_state(generator.get_state())
    assert keys_of([resumed])["key"].equal(keys_of([make_generators(3)["loss"]])["key"])
