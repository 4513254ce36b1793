"""SAC's loss against TorchRL's on the same parameters, batch and noise; isolation of gradients; hand-worked parts."""

from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.func import grad, grad_and_value
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

from rlhive.core.tree import leaves
from rlhive.losses_fn import draw_sac_noise, make_sac_loss
from tests.helpers import make_batch, make_network

GAMMA = 0.9


class PlainMLP(nn.Module):
    """The same network written with torch.nn, for TorchRL."""

    def __init__(self, sizes, layer_norm):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes[1:-1]) if layer_norm else None

    def forward(self, *inputs):
        x = torch.cat(inputs, -1)
        for index, linear in enumerate(self.linears):
            x = linear(x)
            if index < len(self.linears) - 1:
                x = torch.relu(self.norms[index](x) if self.norms else x)
        return x

    def read(self, params: TensorDict):
        with torch.no_grad():
            for index, linear in enumerate(self.linears):
                layer = params[f"layer_{index}"]
                linear.weight.copy_(layer["weight"])
                linear.bias.copy_(layer["bias"])
                if self.norms and index < len(self.norms):
                    self.norms[index].weight.copy_(layer["norm", "weight"])
                    self.norms[index].bias.copy_(layer["norm", "bias"])
        return self


class Head(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, observation):
        loc, log_scale = self.net(observation).chunk(2, -1)
        return loc, log_scale.clamp(-20, 2).exp()


def make_torchrl_loss(params, target_params, kind):
    spec = Bounded(-torch.ones(2), torch.ones(2), shape=(2,))
    actor_net = PlainMLP((5, 16, 16, 4), layer_norm=False).read(params["actor"])
    actor = ProbabilisticActor(
        TensorDictModule(Head(actor_net), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False, "safe_tanh": False},
        spec=spec,
    )
    critics = [
        ValueOperator(
            PlainMLP((7, 16, 16, 1), layer_norm=True).read(params["critic"][member]),
            ["observation", "action"],
        )
        for member in range(2)
    ]
    loss = SACLoss(actor, critics, action_spec=spec, loss_function=kind, alpha_init=1.0, target_entropy=-2.0)
    loss.make_value_estimator(gamma=GAMMA)
    with torch.no_grad():
        loss.log_alpha.copy_(params["log_alpha"])
        for member in range(2):
            reference = PlainMLP((7, 16, 16, 1), layer_norm=True).read(target_params["critic"][member])
            target = TensorDict.from_module(ValueOperator(reference, ["observation", "action"]))
            loss.target_qvalue_network_params[member].update_(target.data)
    return loss


@pytest.mark.parametrize("kind", ["l2", "smooth_l1"])
def test_loss_and_gradients_equal_torchrl(kind):
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    params, target_params = network.init(generator), network.init(generator).select("critic")
    params["log_alpha"] = torch.tensor(-0.7)
    batch = make_batch(generator, batch_size=32)
    for tree in (params, target_params):
        tree["critic"].batch_size = [2]

    reference = make_torchrl_loss(params, target_params, kind)
    torch.manual_seed(5)
    out = reference(batch.clone().auto_batch_size_(1))
    total = out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]
    total.backward()
    # TorchRL draws the noise of the next action first, then the actor's, from the global generator.
    torch.manual_seed(5)
    next_action, action = (torch.normal(torch.zeros(32, 2), torch.ones(32, 2)) for _ in range(2))
    noise = TensorDict({"action": action, "next_action": next_action})
    loss_fn = make_sac_loss(network, gamma=GAMMA, distance_kind=kind)
    grads, (loss, metrics) = grad_and_value(loss_fn, has_aux=True)(params, target_params, batch, noise)

    for name in ("loss_actor", "loss_qvalue", "loss_alpha"):
        torch.testing.assert_close(metrics[name], out[name].detach(), rtol=1e-5, atol=1e-5, msg=name)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(grads["log_alpha"], reference.log_alpha.grad, rtol=1e-5, atol=1e-5)
    actor = dict(reference.actor_network_params.flatten_keys(".").items())
    critic = dict(reference.qvalue_network_params.flatten_keys(".").items())
    for index in range(3):
        for leaf in ("weight", "bias"):
            theirs = next(v for k, v in actor.items() if k.endswith(f"linears.{index}.{leaf}"))
            torch.testing.assert_close(
                grads["actor", f"layer_{index}", leaf], theirs.grad, rtol=1e-4, atol=1e-5
            )
            theirs = next(v for k, v in critic.items() if k.endswith(f"linears.{index}.{leaf}"))
            torch.testing.assert_close(
                grads["critic", f"layer_{index}", leaf], theirs.grad, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    ("term", "subtree"),
    [("loss_actor", "actor"), ("loss_qvalue", "critic"), ("loss_alpha", "log_alpha")],
)
def test_the_joint_gradient_of_a_subtree_is_that_of_its_own_term(term, subtree):
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator)
    batch, noise = make_batch(generator, 8), draw_sac_noise(generator, network, 8)
    target_params = params.select("critic").clone()
    loss_fn = make_sac_loss(network)

    joint = grad(lambda p: loss_fn(p, target_params, batch, noise)[0])(params).select(subtree)
    alone = grad(lambda p: isolated_term(network, term, p, params, target_params, batch, noise))(params)

    for ours, theirs in zip(leaves(joint), leaves(alone.select(subtree)), strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def isolated_term(network, term, p, fixed, target_params, batch, noise):
    """Each term of the joint loss written out on its own (arXiv:1812.05905, equations 5, 9 and 18)."""
    alpha = fixed["log_alpha"].exp()
    if term == "loss_qvalue":
        action, log_prob = network.sample(fixed["actor"], batch["next", "observation"], noise["next_action"])
        value = (
            network.value(target_params["critic"], batch["next", "observation"], action).amin(0)
            - alpha * log_prob
        )
        alive = 1.0 - batch["next", "terminated"].squeeze(-1).float()
        target = batch["next", "reward"].squeeze(-1) + 0.95 * alive * value
        prediction = network.value(p["critic"], batch["observation"], batch["action"])
        return ((prediction - target) ** 2).sum(0).mean()
    if term == "loss_actor":
        action, log_prob = network.sample(p["actor"], batch["observation"], noise["action"])
        return (
            alpha * log_prob - network.value(fixed["critic"], batch["observation"], action).amin(0)
        ).mean()
    _, log_prob = network.sample(fixed["actor"], batch["observation"], noise["action"])
    return -(p["log_alpha"] * (log_prob - 2.0)).mean()


def test_reward_scale_multiplies_the_reward():
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator)
    batch, noise = make_batch(generator, 8), draw_sac_noise(generator, network, 8)
    scaled = batch.clone()
    scaled["next", "reward"] *= 5.0
    target = params.select("critic")
    _, first = make_sac_loss(network, reward_scale=5.0)(params, target, batch, noise)
    _, second = make_sac_loss(network)(params, target, scaled, noise)
    assert (first == second).all()


def test_importance_weights_scale_each_transition():
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator)
    batch, noise = make_batch(generator, 8), draw_sac_noise(generator, network, 8)
    target = params.select("critic")
    _, plain = make_sac_loss(network)(params, target, batch, noise)
    _, weighted = make_sac_loss(network)(
        params, target, batch.clone().set("_weight", torch.full((8,), 0.25)), noise
    )
    assert weighted["loss_qvalue"].item() == pytest.approx(0.25 * plain["loss_qvalue"].item(), rel=1e-6)


def test_n_step_discounts_by_the_number_of_steps():
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator)
    batch, noise = make_batch(generator, 8), draw_sac_noise(generator, network, 8)
    target = params.select("critic")
    steps = torch.full((8, 1), 2.0)
    _, two_steps = make_sac_loss(network, gamma=0.9)(
        params, target, batch.clone().set("steps_to_next_obs", steps), noise
    )
    _, squared = make_sac_loss(network, gamma=0.81)(params, target, batch, noise)
    assert two_steps["loss_qvalue"].item() == pytest.approx(squared["loss_qvalue"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        ({"reward_scale": 0.0}, "reward_scale must be positive"),
        ({"distance_kind": "l3"}, "distance_kind must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_sac_loss(make_network(), **settings)
