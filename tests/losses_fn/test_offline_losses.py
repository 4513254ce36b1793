"""BC, IQL and TD3+BC against TorchRL's on the same parameters and batch; hand-worked values; purity; seeds."""

from functools import partial

import attrs
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.func import grad, grad_and_value, vmap
from torchrl.data import Bounded
from torchrl.modules import Actor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import IQLLoss, TD3BCLoss
from torchrl.objectives.bc import BCLoss

from rlhive.core.tree import leaves, stack_seeds
from rlhive.losses_fn.bc import make_bc_loss
from rlhive.losses_fn.common import draw_no_noise
from rlhive.losses_fn.iql import expectile_loss, make_iql_loss
from rlhive.losses_fn.td3_bc import draw_td3_bc_noise, make_td3_bc_loss
from rlhive.policy_fn.heads import HEADS, MODES
from rlhive.policy_fn.offline_network import bc_network, iql_network, td3_bc_network
from tests.helpers import make_batch, make_spec
from tests.losses_fn.test_sac import PlainMLP

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
GAMMA, HIDDEN = 0.9, (16, 16)
EMPTY = TensorDict({}, batch_size=[])
LIMITS = Bounded(-torch.ones(2), torch.ones(2), shape=(2,))


def make(network_of, **settings):
    """A network, its parameters, others for the targets, and a batch whose actions are well inside the limits."""
    network = network_of(make_spec(), hidden_sizes=HIDDEN, **settings)
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(generator, 32)
    batch["action"] = 0.9 * batch["action"]
    return network, network.init(generator), network.init(generator), batch


class Statistics(torch.nn.Module):
    """What TorchRL's distribution of a head is made of."""

    def __init__(self, net, head):
        super().__init__()
        self.net, self.head = net, head

    def forward(self, observation):
        out = self.net(observation)
        if self.head == "mixture":
            loc, log_scale = out[..., MODES:].unflatten(-1, (MODES, -1)).chunk(2, -1)
            return out[..., :MODES], loc.tanh(), log_scale.clamp(-5, 2).exp()
        loc, log_scale = out.chunk(2, -1)
        if self.head == "gaussian":
            return loc.tanh(), log_scale.clamp(-5, 2).exp()
        return loc, log_scale.clamp(-20, 2).exp()


def mixture(logits, loc, scale):
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


def normal(loc, scale):
    return Independent(Normal(loc, scale), 1)


DISTRIBUTIONS = {
    "gaussian": (["loc", "scale"], normal, {}),
    "tanh_gaussian": (
        ["loc", "scale"],
        TanhNormal,
        {"low": -1.0, "high": 1.0, "tanh_loc": False, "safe_tanh": False},
    ),
    "mixture": (["logits", "loc", "scale"], mixture, {}),
}


def torchrl_actor(params, head):
    sizes = (5, *HIDDEN, HEADS[head].width(2))
    net = PlainMLP(sizes, layer_norm=False).read(params)
    if head == "deterministic":
        return Actor(torch.nn.Sequential(net, torch.nn.Tanh()), in_keys=["observation"], out_keys=["action"])
    keys, distribution, settings = DISTRIBUTIONS[head]
    module = TensorDictModule(Statistics(net, head), ["observation"], keys)
    return ProbabilisticActor(
        module,
        in_keys=keys,
        distribution_class=distribution,
        distribution_kwargs=settings,
        default_interaction_type=InteractionType.RANDOM,
    )


def part(stacked, member):
    return stacked.apply(lambda leaf: leaf[member])


def torchrl_critics(params):
    nets = [PlainMLP((7, *HIDDEN, 1), layer_norm=True).read(part(params, member)) for member in range(2)]
    return [ValueOperator(net, ["observation", "action"]) for net in nets]


def assert_gradients(grads, actor_params, head_depth=3):
    theirs = dict(actor_params.flatten_keys(".").items())
    for index in range(head_depth):
        for leaf in ("weight", "bias"):
            found = next(value for key, value in theirs.items() if key.endswith(f"linears.{index}.{leaf}"))
            torch.testing.assert_close(grads[f"layer_{index}", leaf], found.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_behaviour_cloning_equals_torchrl(head):
    network, params, _, batch = make(bc_network, head=head)
    reference = BCLoss(
        torchrl_actor(params["actor"], head), loss_function="mse" if head == "deterministic" else None
    )
    theirs = reference(batch.clone().auto_batch_size_(1))["loss_bc"]
    theirs.backward()
    grads, (loss, metrics) = grad_and_value(make_bc_loss(network), has_aux=True)(params, EMPTY, batch, EMPTY)
    torch.testing.assert_close(loss, theirs.detach(), rtol=1e-5, atol=1e-5)
    assert metrics["loss_bc"] == loss
    assert_gradients(grads["actor"], reference.actor_network_params)


@pytest.mark.parametrize("head", ["gaussian", "tanh_gaussian", "mixture"])
def test_iql_equals_torchrl(head):
    network, params, target, batch = make(iql_network, head=head)
    value = ValueOperator(PlainMLP((5, *HIDDEN, 1), layer_norm=True).read(params["value"]), ["observation"])
    reference = IQLLoss(
        torchrl_actor(params["actor"], head),
        torchrl_critics(params["critic"]),
        value,
        num_qvalue_nets=2,
        loss_function="l2",
        temperature=2.0,
        expectile=0.7,
    )
    reference.make_value_estimator(gamma=GAMMA)
    read_targets(reference, target)
    out = reference(batch.clone().auto_batch_size_(1))
    (out["loss_actor"] + out["loss_qvalue"] + out["loss_value"]).backward()
    loss_fn = make_iql_loss(network, gamma=GAMMA, expectile=0.7, temperature=2.0)
    grads, (loss, metrics) = grad_and_value(loss_fn, has_aux=True)(
        params, target.select("critic"), batch, EMPTY
    )
    for name in ("loss_actor", "loss_qvalue", "loss_value"):
        torch.testing.assert_close(metrics[name], out[name].detach(), rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(loss, (out["loss_actor"] + out["loss_qvalue"] + out["loss_value"]).detach())
    assert_gradients(grads["actor"], reference.actor_network_params)
    assert_gradients(grads["critic"], reference.qvalue_network_params)
    assert_gradients(grads["value"], reference.value_network_params)


def read_targets(reference, target):
    with torch.no_grad():
        for member, critic in enumerate(torchrl_critics(target["critic"])):
            reference.target_qvalue_network_params[member].update_(TensorDict.from_module(critic).data)


def test_td3_bc_equals_torchrl():
    network, params, target, batch = make(td3_bc_network)
    reference = TD3BCLoss(
        torchrl_actor(params["actor"], "deterministic"),
        torchrl_critics(params["critic"]),
        action_spec=LIMITS,
        num_qvalue_nets=2,
        loss_function="l2",
        alpha=1.5,
        delay_actor=True,
    )
    reference.make_value_estimator(gamma=GAMMA)
    read_targets(reference, target)
    with torch.no_grad():
        actor = TensorDict.from_module(torchrl_actor(target["actor"], "deterministic"))
        reference.target_actor_network_params.update_(actor.data)
    torch.manual_seed(3)
    out = reference(batch.clone().auto_batch_size_(1))
    (out["loss_actor"] + out["loss_qvalue"]).backward()
    torch.manual_seed(3)
    noise = TensorDict({"next_action": torch.randn(32, 2)})
    loss_fn = make_td3_bc_loss(network, gamma=GAMMA, alpha=1.5)
    grads, (loss, metrics) = grad_and_value(loss_fn, has_aux=True)(params, target, batch, noise)
    for name, theirs in (
        ("loss_actor", "loss_actor"),
        ("loss_qvalue", "loss_qvalue"),
        ("loss_bc", "bc_loss"),
    ):
        torch.testing.assert_close(metrics[name], out[theirs].detach(), rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(loss, (out["loss_actor"] + out["loss_qvalue"]).detach())
    assert_gradients(grads["actor"], reference.actor_network_params)
    assert_gradients(grads["critic"], reference.qvalue_network_params)


LOSSES = {
    **{f"bc {head}": (partial(bc_network, head=head), make_bc_loss, draw_no_noise) for head in HEADS},
    "iql": (iql_network, make_iql_loss, draw_no_noise),
    "iql mixture": (partial(iql_network, head="mixture"), make_iql_loss, draw_no_noise),
    "td3_bc": (td3_bc_network, make_td3_bc_loss, draw_td3_bc_noise),
}


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_not_written_and_every_parameter_learns(name):
    network_of, make_loss, draw_noise = LOSSES[name]
    network, params, target, batch = make(network_of)
    noise = draw_noise(torch.Generator().manual_seed(1), network, 32)
    trees = [tree.auto_batch_size_(0).lock_() for tree in (params, target, batch, noise)]
    before = [tree.clone() for tree in trees]
    grads, (loss, metrics) = grad_and_value(make_loss(network), has_aux=True)(*trees)
    for tree, copy in zip(trees, before, strict=True):
        assert all(map(torch.equal, leaves(tree), leaves(copy)))
    assert loss.shape == () and loss.isfinite() and not any(value.requires_grad for value in leaves(metrics))
    assert all(value.isfinite().all() for value in leaves(grads)) and all(
        grads[part].any() for part in parts(grads)
    )


def parts(tree):
    return [(name, "layer_0", "weight") for name in tree.keys()]  # noqa: SIM118


@pytest.mark.parametrize("name", LOSSES)
def test_seeds_together_equal_one_after_another(name):
    network_of, make_loss, draw_noise = LOSSES[name]
    network = network_of(make_spec(), hidden_sizes=HIDDEN)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    trees = [
        (network.init(g), network.init(g), make_batch(g, 16), draw_noise(g, network, 16)) for g in generators
    ]
    step = grad_and_value(make_loss(network), has_aux=True)
    together = vmap(step)(*(stack_seeds(parts) for parts in zip(*trees, strict=True)))
    for seed, alone in enumerate(map(lambda own: step(*own), trees)):  # noqa: C417
        assert together[1][0][seed].item() == pytest.approx(alone[1][0].item(), rel=1e-5, abs=1e-6)
        for ours, theirs in zip(leaves(together[0][seed]), leaves(alone[0]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "term", "subtree"),
    [
        ("iql", "loss_actor", "actor"),
        ("iql", "loss_qvalue", "critic"),
        ("iql", "loss_value", "value"),
        ("td3_bc", "loss_actor", "actor"),
        ("td3_bc", "loss_qvalue", "critic"),
    ],
)
def test_a_subtree_learns_from_its_own_term_alone(name, term, subtree):
    """The joint gradient of a subtree does not change with what only another term reads."""
    network_of, make_loss, draw_noise = LOSSES[name]
    network, params, target, batch = make(network_of)
    noise = draw_noise(torch.Generator().manual_seed(1), network, 32)
    loss_fn = make_loss(network)
    joint = grad(lambda p: loss_fn(p, target, batch, noise)[0])(params)

    def only(own):
        """The loss where all other parameters are constants: what is left is this subtree's terms."""
        return loss_fn(params.copy().update({subtree: own}), target, batch, noise)[0]

    alone = grad(only)(params[subtree])
    assert all(map(torch.equal, leaves(alone), leaves(joint[subtree])))
    # Its own term, apart from the others by a difference of two losses along the gradient.
    step = params.copy().update({subtree: moved(params[subtree], alone)})
    before, after = (loss_fn(tree, target, batch, noise)[1] for tree in (params, step))
    others = {key for key in before.keys() if key.startswith("loss_")} - {term, "loss_bc"}  # noqa: SIM118
    assert after[term] < before[term]
    if subtree == "actor":
        assert all(after[key] == before[key] for key in others)


def moved(tree, direction):
    return tree.apply(lambda value, slope: value - 1e-3 * slope, direction)


def test_values_worked_by_hand():
    error = torch.tensor([2.0, -2.0, 0.0])
    torch.testing.assert_close(expectile_loss(error, 0.75), torch.tensor([3.0, 1.0, 0.0]))

    network = bc_network(make_spec(), head="deterministic", hidden_sizes=())
    params = network.init(torch.Generator().manual_seed(0)).apply(torch.zeros_like)
    batch = TensorDict({"observation": torch.ones(2, 5), "action": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
    assert make_bc_loss(network)(params, EMPTY, batch, EMPTY)[0] == 0.5

    network = bc_network(make_spec(), head="gaussian", hidden_sizes=())
    params = network.init(torch.Generator().manual_seed(0)).apply(torch.zeros_like)
    # Two standard normals at 0 and 1: log(2 pi) + 1/2.
    assert make_bc_loss(network)(params, EMPTY, batch, EMPTY)[0].item() == pytest.approx(1.8378771 + 0.5)


def test_td3_bc_by_hand():
    """Zero critics and actor but for a bias: target = r + gamma Q', Q = 2."""
    network = td3_bc_network(make_spec(), hidden_sizes=(), num_critics=1)
    params = network.init(torch.Generator().manual_seed(0)).apply(torch.zeros_like)
    params["critic", "layer_0", "bias"] = torch.full((1, 1), 2.0)
    following = {"observation": torch.ones(2, 5), "reward": torch.tensor([[1.0], [3.0]])}
    following["terminated"] = torch.tensor([[False], [True]])
    actions = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    batch = TensorDict({"observation": torch.ones(2, 5), "action": actions, "next": following})
    noise = TensorDict({"next_action": torch.zeros(2, 2)})
    _, metrics = make_td3_bc_loss(network, gamma=0.5, alpha=2.5)(params, params, batch, noise)
    assert metrics["loss_qvalue"] == 0.5  # targets 2 and 3
    assert metrics["loss_bc"] == 0.25 and metrics["loss_actor"] == pytest.approx(0.25 - 2.5)
    assert metrics["td_error"].tolist() == [0.0, 1.0]


def test_td3_bc_copies_alike_in_any_unit_of_the_actions():
    network, params, target, batch = make(td3_bc_network)
    noise = TensorDict({"next_action": torch.zeros(32, 2)})
    other_unit = attrs.evolve(network, action_low=(-100.0, -100.0), action_high=(100.0, 100.0))
    of_other_unit = batch.copy().update({"action": 100.0 * batch["action"]})
    expected = make_td3_bc_loss(network)(params, target, batch, noise)[1]["loss_bc"]
    found = make_td3_bc_loss(other_unit)(params, target, of_other_unit, noise)[1]["loss_bc"]
    torch.testing.assert_close(found, expected)


def test_large_advantages_are_cut():
    network, params, target, batch = make(iql_network)
    target["critic", "layer_2", "bias"] = target["critic", "layer_2", "bias"] + 1e3
    loss, metrics = make_iql_loss(network)(params, target, batch, EMPTY)
    assert metrics["advantage_weight"] == 100.0 and loss.isfinite()


@pytest.mark.parametrize(
    ("make_loss", "settings", "message"),
    [
        (make_iql_loss, {"gamma": 1.1}, r"^gamma must be in \[0, 1\], got 1.1"),
        (make_iql_loss, {"expectile": 1.0}, r"^expectile must be in \(0, 1\)"),
        (make_iql_loss, {"temperature": -1.0}, "^temperature must not be negative"),
        (make_td3_bc_loss, {"gamma": -0.1}, r"^gamma must be in \[0, 1\]"),
        (make_td3_bc_loss, {"alpha": float("nan")}, "^alpha must not be negative"),
        (make_td3_bc_loss, {"noise_clip": -1.0}, "^noise_clip must not be negative"),
    ],
)
def test_settings_out_of_range(make_loss, settings, message):
    with pytest.raises(ValueError, match=message):
        make_loss(None, **settings)


def losses_on(batch, make_loss, network, params, target_params, noise):
    return make_loss(network, gamma=GAMMA)(params, target_params, batch, noise)[1]


@pytest.mark.parametrize(
    ("network_of", "make_loss"), [(iql_network, make_iql_loss), (td3_bc_network, make_td3_bc_loss)]
)
def test_sums_of_n_rewards_are_bootstrapped_by_as_many_discounts_and_weights_count(network_of, make_loss):
    network, params, target_params, batch = make(network_of)
    noise = TensorDict({"next_action": torch.zeros(32, 2)})
    of = (network, params, target_params, noise)
    two = losses_on(batch.clone().set("steps_to_next_obs", torch.full((32, 1), 2.0)), make_loss, *of)
    squared = make_loss(network, gamma=GAMMA**2)(params, target_params, batch, noise)[1]
    torch.testing.assert_close(two["td_error"], squared["td_error"])
    plain = losses_on(batch, make_loss, *of)
    weighted = losses_on(batch.clone().set("_weight", torch.full((32,), 0.25)), make_loss, *of)
    assert weighted["loss_qvalue"].item() == pytest.approx(0.25 * plain["loss_qvalue"].item(), rel=1e-6)
