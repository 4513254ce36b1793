"""Actors that plan several actions at once: what they learn from, and that what acts carries the plans out."""

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.func import grad, grad_and_value, vmap

from rlhive.config import ConfigError, load_config
from rlhive.core.errors import LoadError
from rlhive.core.tree import leaves, stack_seeds
from rlhive.data import load_dataset
from rlhive.data.formats import episodes
from rlhive.data.record import record
from rlhive.data.trace import trace_file, write_trial
from rlhive.deploy import Settings
from rlhive.deploy import run as deploy
from rlhive.deploy.connecting import simulate
from rlhive.deploy.journal import read_journal
from rlhive.envs.robohive import RoboHive
from rlhive.envs.vector import VectorEnv
from rlhive.evaluate import evaluate
from rlhive.export import export
from rlhive.losses_fn.bc import make_bc_loss
from rlhive.metrics import read_metrics
from rlhive.policy_fn import load
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.offline_network import OfflineNetwork, bc_network
from rlhive.policy_fn.plan import follow
from rlhive.runs.run_files import EVALUATION_SEED
from rlhive.runs.run_spec import RunSpec, new_run_spec
from rlhive.training import loop
from rlhive.training.evaluation import evaluation_seeds, run_episodes
from rlhive.training.init_from import latest_of, start_from
from rlhive.training.run import open_run
from tests.helpers import make_batch, make_spec

ENVIRONMENT = "FrankaReachRandom-v0"
K = 4  # does not divide the 50 steps of an episode
EMPTY = TensorDict({}, batch_size=[])
HEADS = ["deterministic", "gaussian", "tanh_gaussian"]


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory):
    """A cache of data sets of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhive.data.cache.cache_dir", lambda: tmp_path_factory.getbasetemp() / "cache")
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Two episodes of random actions, to be read only."""
    path = tmp_path_factory.mktemp("demo") / "demo.h5"
    record(ENVIRONMENT, "random", 2, path)
    return path


def train(demo, run_dir, *more, resume=False):
    run_dir.mkdir(exist_ok=True)
    given = [
        *(
            f"DATASET='{demo}'",
            "TOTAL_STEPS=6",
            f"bc_network.chunk_size={K}",
            "bc_network.hidden_sizes=(16, 16)",
        ),
        *("train.num_workers=0", "train.loggers=()", "train.batch_size=32", "train.evaluation_episodes=1"),
        *("adam.learning_rate=0.03", *more),
    ]
    with open_run(load_config(["bc_gaussian.gin"], given), run_dir, resume=resume) as run:
        assert loop.train(run)
    return run


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """The run of seed 3 alone, to be read only."""
    return train(demo, tmp_path_factory.mktemp("alone"), "SEED=3")


def test_a_step_has_the_next_actions_of_its_own_trial(tmp_path):
    with trace_file(tmp_path / "demo.h5", None) as file:
        for name, first in (("Trial0", 0.0), ("Trial1", 10.0)):
            steps = 3 if name == "Trial0" else 2
            actions = np.append(first + np.arange(steps), np.nan)[:, None]
            values = {"rewards": np.zeros(steps + 1), "done": np.zeros(steps + 1, bool), "actions": actions}
            write_trial(file, name, {**values, "observations": np.zeros((steps + 1, 1))})
    dataset = load_dataset(tmp_path / "demo.h5")
    batch = dataset.take(torch.arange(5), 3)
    assert batch["action"].squeeze(-1).tolist() == [
        [0, 1, 2],
        [1, 2, 2],
        [2, 2, 2],
        [10, 11, 11],
        [11, 11, 11],
    ]
    yes, no = True, False
    assert batch["mask"].tolist() == [
        [yes, yes, yes],
        [yes, yes, no],
        [yes, no, no],
        [yes, yes, no],
        [yes, no, no],
    ]
    longer = dataset.take(torch.tensor([[4, 0]]), 100)  # than any trial
    assert longer["action"].shape == (1, 2, 100, 1) and longer["mask"].sum(-1).tolist() == [[1, 3]]

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    plain, one, chunks = (dataset.sample(generators(), 8, *size) for size in ((), (1,), (3,)))
    assert set(plain.keys()) == set(one.keys()) == set(chunks.keys()) - {"mask"}
    assert bool((plain == one).all()) and torch.equal(chunks["action"][:, :, 0], plain["action"])


@pytest.mark.parametrize("head", HEADS)
def test_what_follows_a_trial_teaches_nothing(head):
    network = bc_network(make_spec(), head=head, hidden_sizes=(8,), chunk_size=3)
    generator = torch.Generator().manual_seed(0)
    params, batch = network.init(generator), make_batch(generator, 4)
    batch["action"] = 0.9 * torch.rand(4, 3, 2, generator=generator)
    batch["mask"] = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]).bool()
    other = batch.clone()
    other["action"][~batch["mask"]] = -0.7
    step = grad_and_value(make_bc_loss(network), has_aux=True)
    (grads, (loss, _)), (other_grads, (other_loss, _)) = (
        step(params, EMPTY, b, EMPTY) for b in (batch, other)
    )
    assert loss == other_loss and all(map(torch.equal, leaves(grads), leaves(other_grads)))
    assert all(leaf.any() for leaf in leaves(grads))
    whole = {"mask": torch.ones(4, 3, dtype=torch.bool)}
    assert step(params, EMPTY, batch.copy().update(whole), EMPTY)[1][0] != loss


def test_losses_of_plans_by_hand():
    batch = TensorDict({"observation": torch.ones(2, 5)})
    batch["action"] = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    batch["mask"] = torch.tensor([[True, True], [True, False]])
    losses = {}
    for head in ("deterministic", "gaussian"):
        network = bc_network(make_spec(), head=head, hidden_sizes=(), chunk_size=2)
        params = network.init(torch.Generator().manual_seed(0)).apply(torch.zeros_like)
        losses[head], metrics = make_bc_loss(network)(params, EMPTY, batch, EMPTY)
        assert metrics["mse"] == 0.5  # three ones in six numbers
    assert losses["deterministic"] == 0.5
    # Each of three steps log(2 pi), and half of three ones among the three.
    assert losses["gaussian"].item() == pytest.approx(1.8378771 + 0.5)


@pytest.mark.parametrize("head", [*HEADS, "mixture"])
def test_one_action_at_a_time_is_learned_as_before(head):
    """The loss written out without plans, bit for bit, gradients and several seeds included."""
    network, generator = (
        bc_network(make_spec(), head=head, hidden_sizes=(16, 16)),
        torch.Generator().manual_seed(0),
    )
    params, batch = network.init(generator), make_batch(generator, 32)

    def plain(params, target_params, batch, noise):
        mode = network.mode(params["actor"], batch["observation"])
        if head == "deterministic":
            return (mode - batch["action"]).square().mean(), EMPTY
        return -network.log_prob(params["actor"], batch["observation"], batch["action"]).mean(), EMPTY

    for loss_fn in (make_bc_loss(network), plain):
        step = grad_and_value(loss_fn, has_aux=True)
        grads, (loss, _) = step(params, EMPTY, batch, EMPTY)
        seeds = vmap(step)(*(stack_seeds([tree, tree]) for tree in (params, EMPTY, batch, EMPTY)))
        if loss_fn is not plain:
            ours = [loss, *leaves(grads), seeds[1][0], *leaves(seeds[0])]
    assert all(map(torch.equal, ours, [loss, *leaves(grads), seeds[1][0], *leaves(seeds[0])]))


@pytest.mark.parametrize("head", HEADS)
def test_actions_of_a_plan_are_those_of_its_distributions(head):
    network, generator = (
        bc_network(make_spec(), head=head, hidden_sizes=(8,), chunk_size=3),
        torch.Generator(),
    )
    actor = network.init(generator.manual_seed(0))["actor"]
    x, noise = torch.randn(4, 5, generator=generator), torch.randn(4, 3, 2, generator=generator)
    plan, drawn = network.plan(actor, x), network.plan(actor, x, noise)
    assert plan.shape == drawn.shape == (4, 3, 2)
    assert torch.equal(network.mode(actor, x), plan[:, 0])
    assert torch.equal(network.sample(actor, x, noise[:, 0])[0], drawn[:, 0])
    if head != "deterministic":
        assert not torch.equal(plan, drawn)
        density = network.plan_log_prob(actor, x, 0.9 * plan)
        assert torch.equal(density[:, 0], network.log_prob(actor, x, 0.9 * plan[:, 0]))
    # The last layer has the numbers of one step after those of another.
    last = actor.clone()
    width = len(last["layer_1", "bias"]) // 3
    last["layer_1", "bias"][width : 2 * width] += 0.1
    changed = (network.plan(last, x) != plan).any(-1).any(0)
    assert changed.tolist() == [False, True, False]


def test_a_plan_is_followed_to_its_end():
    plans = iter(torch.arange(6.0).view(2, 3, 1))
    rest, taken = None, []
    for _ in range(5):
        action, rest = follow(rest, lambda: next(plans))
        taken.append(action.item())
    assert taken == [0, 1, 2, 3, 4] and rest.tolist() == [[5.0]]
    action, rest = follow(rest, lambda: pytest.fail("planned too soon"))
    assert action.item() == 5.0 and rest is None


def test_the_description_says_how_many(franka_spec):
    plain, chunked = (
        new_run_spec("bc", franka_spec, bc_network(franka_spec, chunk_size=size)) for size in (1, K)
    )
    assert [spec.to_dict()["network"]["chunk_size"] for spec in (plain, chunked)] == [1, K]
    for spec in (plain, chunked):
        assert RunSpec.from_json(spec.to_json()) == spec
    with pytest.raises(LoadError, match="chunk_size"):
        RunSpec.from_dict(
            {**chunked.to_dict(), "network": {**attrs.asdict(chunked.network), "chunk_size": 0}}
        )


@pytest.mark.parametrize(
    ("name", "binding", "message"),
    [
        (
            "bc_mixture",
            "bc_network.chunk_size=4",
            "chunk_size > 1 goes with .* alone, not with mixture of actor",
        ),
        ("bc_gaussian", "bc_network.chunk_size=0", "'chunk_size' must be >= 1: 0"),
        ("iql", "iql_network.chunk_size=4", "iql_network has no parameter 'chunk_size'"),
    ],
)
def test_what_plans_nothing_is_refused(name, binding, message, demo):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config([f"{name}.gin"], [f"DATASET='{demo}'", binding])
    assert "\n" not in str(caught.value)


def test_critics_of_plans_are_refused():
    with pytest.raises(ValueError, match="not with gaussian of actor, critic"):
        OfflineNetwork(5, (-1.0,), (1.0,), head="gaussian", parts=("actor", "critic"), chunk_size=2)


def by_hand(policy, seeds, num_envs=1):
    """Returns of episodes whose plans are carried out with no help but the environment's."""
    returns = []
    for seed in seeds:
        env, total = RoboHive(ENVIRONMENT), 0.0
        observation = env.reset(seed)
        for step in range(50):
            if step % K == 0:
                plan = policy.plan(observation)
            result = env.step(plan[step % K])
            observation, total = result.observation, total + result.reward
        env.close()
        returns.append(total)
    return returns


def test_evaluations_carry_plans_out_in_the_real_environment(trained):
    policy = load(trained.run_dir)
    assert policy.spec == trained.spec and policy.spec.network.chunk_size == K
    assert read_metrics(trained.run_dir)["eval/return"][-1] == pytest.approx(
        by_hand(policy, evaluation_seeds(EVALUATION_SEED, 1))[0], abs=1e-6
    )
    assert evaluate(trained.run_dir, 2, 1)["return_mean"] == pytest.approx(
        np.mean(by_hand(policy, evaluation_seeds(1, 2))), abs=1e-6
    )
    # Planning anew at each step is another policy.
    with VectorEnv(ENVIRONMENT, seeds=[1], num_workers=0) as envs:
        anew = run_episodes(envs, lambda seen, rest: policy.act(seen), evaluation_seeds(1, 2))
    assert abs(anew.returns.mean() - evaluate(trained.run_dir, 2, 1)["return_mean"]) > 1e-3
    assert evaluate(trained.run_dir, 1, 1, stochastic=True)["environment"] == ENVIRONMENT


def test_a_loaded_policy_plans(trained, demo):
    policy = load(trained.run_dir)
    seen = load_dataset(demo).transitions["observation"][:5].clone()
    plan = policy.plan(seen)
    assert plan.shape == (5, K, 9) and plan.dtype == torch.float32 and plan.abs().max() <= 1.0
    assert torch.equal(policy(seen), plan[:, 0])
    assert torch.equal(policy.apply_plan(policy.params, policy.env_state, seen), plan)
    one = policy.plan(seen[0].numpy())
    assert isinstance(one, np.ndarray) and np.array_equal(policy(seen[0].numpy()), one[0])
    noise = torch.randn(5, K, 9, generator=torch.Generator().manual_seed(0))
    drawn = policy.plan(seen, noise)
    assert not torch.equal(drawn, plan) and torch.equal(policy(seen, noise[:, 0]), drawn[:, 0])
    with pytest.raises(ValueError, match=r"noise must have shape \[5, 4, 9\]"):
        policy.plan(seen, noise[:, 0])
    rest, taken = None, []
    for row in range(5):
        action, rest = policy.act(seen[row], rest)
        taken.append(action)
    torch.testing.assert_close(torch.stack(taken), torch.cat([plan[0], plan[4, :1]]))
    broken = seen[0].clone()
    broken[2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):  # seen although nothing is planned on it
        policy.act(broken, rest)


def test_a_seed_is_the_same_alone_and_among_others_and_resumed(trained, demo, tmp_path):
    train(demo, tmp_path, "SEEDS=(11, 3)", "TOTAL_STEPS=2")
    both = train(demo, tmp_path, "SEEDS=(11, 3)", resume=True)
    assert bool((both.state[1:] == trained.state).all())
    with pytest.raises(LoadError, match="cannot be resumed with another network"):
        train(demo, tmp_path, "SEEDS=(11, 3)", "bc_network.chunk_size=2", resume=True)


def test_recording_and_deploying_carry_plans_out(trained, tmp_path):
    policy = load(trained.run_dir)
    record(ENVIRONMENT, str(trained.run_dir), 1, tmp_path / "played.h5")
    [played] = episodes(tmp_path / "played.h5", "trace")
    deploy(policy, simulate(ENVIRONMENT, 0), tmp_path / "deployed", Settings(max_steps=6))
    journal = read_journal(tmp_path / "deployed" / "journal.bin")[:-1]  # nothing is done on the last reading
    for observations, actions in (
        (played.observations, played.actions),
        (journal["observations"], journal["policy_actions"]),
    ):
        planned = [policy.plan(observations[step]) for step in range(0, len(actions), K)]
        assert np.array_equal(np.concatenate(planned)[: len(actions)], actions)


def test_a_bundle_plans_and_a_graph_is_refused(trained, demo, tmp_path):
    export(trained.run_dir, tmp_path / "bundle")
    seen = load_dataset(demo).transitions["observation"][:3].numpy()
    assert np.array_equal(load(tmp_path / "bundle").plan(seen), load(trained.run_dir).plan(seen))
    with pytest.raises(ValueError, match="plans 4 actions at once, and the graph has one"):
        export(trained.run_dir, tmp_path / "other", torch_export=True)
    assert not (tmp_path / "other").exists()


def test_sac_does_not_begin_with_a_plan(trained):
    spec = trained.spec
    network = actor_critic(spec.env, hidden_sizes=(16,))
    with pytest.raises(LoadError, match="its actor plans 4 actions at once, and sac needs 1"):
        origin = latest_of(trained.run_dir)
        start_from(trained.state, trained.run_dir, origin, new_run_spec("sac", spec.env, network), (3,))


def test_gradients_reach_every_step_of_a_plan():
    network = bc_network(make_spec(), head="gaussian", hidden_sizes=(8,), chunk_size=3)
    actor = network.init(torch.Generator().manual_seed(0))["actor"]
    x = torch.ones(2, 5)
    for step in range(3):
        slope = grad(lambda tree, step=step: network.plan(tree, x)[:, step].sum())(actor)["layer_1", "bias"]
        assert slope.view(3, 4).any(-1).tolist() == [step == other for other in range(3)]
