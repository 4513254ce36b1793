"""Networks and algorithms of one's own act as they were trained to, and their checkpoints are loaded."""

import attrs
import pytest
import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS, POLICY_KEYS
from rlhive.policy_fn import LoadError, load
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.heads import HEADS
from rlhive.policy_fn.offline_network import bc_network
from rlhive.runs.run_spec import RunSpec, new_run_spec
from tests.helpers import make_spec


@attrs.frozen
class Unlaid(ActorCritic):
    """Looks at the values that it draws, which are not there where only shapes are computed."""

    def init(self, key):
        params = super().init(key)
        if params["log_alpha"] > 0.0:
            raise ValueError("drawn badly")
        return params


@attrs.frozen
class Halved(ActorCritic):
    """Acts half as far as SAC's."""

    def mode(self, actor, observation):
        return 0.5 * super().mode(actor, observation)


@pytest.fixture
def own_algorithm(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"]._replace(network=Halved, policy_keys=("actor",)))


def make_policy(algorithm, env, network):
    spec = RunSpec.from_json(new_run_spec(algorithm, env, network).to_json(), "spec.json")
    constants = {"loc": torch.zeros(5), "scale": torch.ones(5), "count": torch.tensor(10.0)}
    return load(network.init(1), TensorDict({"observation": constants}), spec=spec)


@pytest.mark.parametrize("name", ["own", "deterministic"])
def test_a_head_with_a_mode_of_ones_own_acts_alone_as_it_does_among_others(monkeypatch, name):
    head = HEADS["deterministic"]._replace(mode=lambda out, low, high: 0.25 * torch.tanh(out))
    monkeypatch.setitem(HEADS, name, head)
    policy = make_policy("bc", make_spec(), bc_network(make_spec(), head=name, hidden_sizes=(16,)))
    observation = torch.linspace(-1.0, 1.0, 5)
    assert torch.equal(policy(observation), policy(observation[None])[0])


def test_a_network_of_ones_own_acts_alone_as_it_does_among_others(own_algorithm):
    env = make_spec()
    network = Halved(env.observation_dim, env.action_low, env.action_high, hidden_sizes=(16,))
    policy = make_policy("own", env, network)
    assert set(policy.params.keys()) == {"actor"} and POLICY_KEYS["own"] == ("actor",)
    observation = torch.linspace(-1.0, 1.0, 5)
    expected = policy.apply(policy.params, policy.env_state, observation[None])[0]
    assert torch.equal(policy(observation), expected) and expected.abs().max() <= 0.5


def test_a_network_that_cannot_be_laid_out_says_why(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"]._replace(network=Unlaid))
    env = make_spec()
    network = Unlaid(env.observation_dim, env.action_low, env.action_high, hidden_sizes=(16,))
    with pytest.raises(LoadError, match=r"parameters of Unlaid cannot be laid out \(.*meta tensor") as caught:
        make_policy("own", env, network)
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, RuntimeError)
