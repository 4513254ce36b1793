import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded
from torchrl.modules import AdditiveGaussianModule, EGreedyModule, OrnsteinUhlenbeckProcessModule

from rlhive.policy_fn import exploration

LOW, HIGH = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
FACTORIES = [
    exploration.gaussian,
    exploration.ornstein_uhlenbeck,
    exploration.epsilon_random,
    exploration.none,
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first(batch: tuple[int, ...], value: bool = False) -> torch.Tensor:
    return torch.full((*batch, 1), value)


def test_linear_annealing():
    def sigma(step: int) -> float:
        return exploration.linear_annealing(step, init=1.0, end=0.1, annealing_steps=1000)

    assert sigma(0) == 1.0
    assert sigma(500) == pytest.approx(0.55)
    assert sigma(1000) == pytest.approx(0.1) == sigma(10**9)


@pytest.mark.parametrize("steps", [0, 1, 137, 1000, 2500])
def test_schedules_equal_torchrl(steps):
    spec = Bounded(-1, 1, (3,))
    ours = exploration.linear_annealing(steps, init=1.0, end=0.1, annealing_steps=1000)
    gaussian, greedy = AdditiveGaussianModule(spec), EGreedyModule(spec)
    ou = OrnsteinUhlenbeckProcessModule(spec)
    gaussian.step(steps)
    greedy.step(steps)
    ou.step(steps)
    assert gaussian.sigma.item() == pytest.approx(ours, abs=1e-4)
    assert ou.eps.item() == pytest.approx(ours, abs=1e-4)
    assert greedy.eps.item() == pytest.approx(max(0.1, 1 - 0.9 * steps / 1000), abs=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_actions_stay_on_their_device(factory):
    explore = factory(LOW, HIGH)
    state, noise = (part.to("meta") for part in (explore.init((5,)), explore.draw(generator(), 5)))
    action = torch.zeros(5, 3, device="meta")
    assert explore.apply(state, action, noise, 0, first((5,)).to("meta"))[0].is_meta


def test_gaussian_equals_torchrl():
    module = AdditiveGaussianModule(Bounded(-1, 1, (3,)), mean=0.2)
    action = torch.rand(5, 3, generator=generator()) - 0.5
    gaussian = exploration.gaussian(LOW, HIGH, mean=0.2)
    module.step(400)
    torch.manual_seed(3)
    expected = module(TensorDict({"action": action.clone()}, batch_size=5))["action"]
    torch.manual_seed(3)
    # torch.normal with tensors for mean and std adds and multiplies standard normal numbers.
    noise = TensorDict({"normal": torch.normal(torch.zeros(5, 3), torch.ones(5, 3))}, batch_size=5)
    explored, _ = gaussian.apply(gaussian.init((5,)), action, noise, 400, first((5,)))
    # TorchRL subtracts from a float32 sigma 400 times, which drifts by 1e-5.
    torch.testing.assert_close(explored, expected, atol=1e-4, rtol=0)
    assert not torch.equal(explored, action)


def test_ornstein_uhlenbeck_equals_torchrl():
    module = OrnsteinUhlenbeckProcessModule(Bounded(-1, 1, (3,)), theta=0.6, mu=0.3, sigma=0.4, dt=0.05)
    ou = exploration.ornstein_uhlenbeck(LOW, HIGH, theta=0.6, mu=0.3, sigma=0.4, dt=0.05)
    td, state = TensorDict({}, batch_size=4), ou.init((4,))
    for step in range(20):
        is_init = (torch.arange(4) % 3 == step % 7).unsqueeze(-1) | (step == 0)
        action = torch.rand(4, 3, generator=generator(step)) - 0.5
        td.update({"action": action.clone(), "is_init": is_init})
        torch.manual_seed(step)
        td = module(td)
        module.step()
        torch.manual_seed(step)
        noise = TensorDict({"normal": torch.randn(4, 3)}, batch_size=4)
        explored, state = ou.apply(state, action, noise, step, is_init)
        torch.testing.assert_close(explored, td["action"], atol=1e-5, rtol=0)


def test_ornstein_uhlenbeck_by_hand():
    ou = exploration.ornstein_uhlenbeck((-2.0,), (2.0,), theta=0.5, mu=1.0, sigma=0.3, dt=0.04, eps_end=1.0)
    noise = TensorDict({"normal": torch.tensor([[2.0]])}, batch_size=1)
    state = TensorDict({"process": torch.tensor([[0.5]])}, batch_size=1)
    action, after = ou.apply(state, torch.tensor([[0.1]]), noise, 0, first((1,)))
    process = 0.5 + 0.5 * (1.0 - 0.5) * 0.04 + 0.3 * 0.2 * 2.0
    assert after["process"].item() == pytest.approx(process)
    assert action.item() == pytest.approx(0.1 + 2.0 * process)  # half of the range is 2
    _, restarted = ou.apply(state, torch.tensor([[0.1]]), noise, 0, first((1,), True))
    assert restarted["process"].item() == pytest.approx(0.5 * 0.04 + 0.3 * 0.2 * 2.0)


def test_gaussian_scales_with_the_range_and_clips():
    gaussian = exploration.gaussian((-1.0, 0.0, 0.0), (1.0, 10.0, 0.2), sigma_end=1.0)
    noise = TensorDict({"normal": torch.tensor([[0.5, 0.5, 5.0]])}, batch_size=1)
    action, _ = gaussian.apply(gaussian.init((1,)), torch.tensor([[0.0, 5.0, 0.1]]), noise, 0, first((1,)))
    torch.testing.assert_close(action, torch.tensor([[0.5, 7.5, 0.2]]))


def test_epsilon_random_replaces_whole_actions():
    greedy = exploration.epsilon_random((0.0, -4.0), (1.0, 4.0), eps_init=0.5, eps_end=0.5)
    noise = TensorDict(
        {"chance": torch.tensor([[0.49], [0.5]]), "uniform": torch.tensor([[0.25, 0.75], [0.25, 0.75]])},
        batch_size=2,
    )
    action, _ = greedy.apply(greedy.init((2,)), torch.tensor([[0.9, 3.0], [0.9, 3.0]]), noise, 0, first((2,)))
    torch.testing.assert_close(action, torch.tensor([[0.25, 2.0], [0.9, 3.0]]))


def test_epsilon_random_rate_and_spread():
    greedy = exploration.epsilon_random((0.0,), (4.0,), eps_init=0.3, eps_end=0.3)
    noise = greedy.draw(generator(), 20_000)
    action, _ = greedy.apply(
        greedy.init((20_000,)), torch.full((20_000, 1), -1.0), noise, 0, first((20_000,))
    )
    random = action[action > 0]  # -1 was clipped to 0
    assert len(random) / 20_000 == pytest.approx(0.3, abs=0.015)
    assert random.mean().item() == pytest.approx(2.0, abs=0.05)
    assert random.var().item() == pytest.approx(16 / 12, abs=0.05)


def test_none_only_clips():
    none = exploration.none((-1.0,), (1.0,))
    action, _ = none.apply(
        none.init((2,)), torch.tensor([[0.3], [1.5]]), none.draw(generator(), 2), 0, first((2,))
    )
    torch.testing.assert_close(action, torch.tensor([[0.3], [1.0]]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_stacked_seeds_equal_each_alone(factory):
    explore = factory(LOW, HIGH)
    states = torch.stack([explore.init((2,)) for _ in range(4)])
    generators = [generator(seed) for seed in range(4)]
    alone = {seed: (explore.init((2,)), generator(seed)) for seed in range(4)}
    for step in range(5):
        action = torch.rand(4, 2, 3, generator=generator(100 + step)) * 2 - 1
        is_init = first((4, 2), step == 0)
        noise = explore.draw(generators, 2)
        stacked, states = explore.apply(states, action, noise, 100 * step, is_init)
        for seed, (state, own) in alone.items():
            explored, state = explore.apply(
                state, action[seed], explore.draw(own, 2), 100 * step, is_init[seed]
            )
            assert torch.equal(explored, stacked[seed])
            alone[seed] = (state, own)


@pytest.mark.parametrize("factory", FACTORIES)
def test_inputs_are_not_written(factory):
    explore = factory(LOW, HIGH)
    state, noise = explore.init((2, 3)), explore.draw([generator(0), generator(1)], 3)
    action, is_init = torch.zeros(2, 3, 3), first((2, 3), True)
    before = [x.clone() for x in (state, noise, action, is_init)]
    explored, _ = explore.apply(state.lock_(), action, noise.lock_(), 0, is_init)
    assert explored.shape == action.shape and explored is not action
    assert all(bool((a == b).all()) for a, b in zip((state, noise, action, is_init), before, strict=True))


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_actions_stay_visible(factory, bad):
    explore = factory(LOW, HIGH)
    action = torch.zeros(50, 3)
    action[:, 1] = bad
    explored, _ = explore.apply(explore.init((50,)), action, explore.draw(generator(), 50), 0, first((50,)))
    assert not explored[:, 1].isfinite().any()


@pytest.mark.parametrize("factory", FACTORIES)
def test_actions_stay_within_the_limits(factory):
    low, high = (-0.3, 2.0), (0.1, 2.5)
    explore = factory(low, high)
    state, g = explore.init((500,)), generator()
    action = torch.tensor([[0.1, 2.0]]).expand(500, 2)
    for step in range(3):
        explored, state = explore.apply(state, action, explore.draw(g, 500), step, first((500,)))
        assert bool((explored >= torch.tensor(low)).all() and (explored <= torch.tensor(high)).all())


@pytest.mark.parametrize(
    ("factory", "settings", "message"),
    [
        (
            exploration.gaussian,
            {"sigma_init": 0.1, "sigma_end": 0.5},
            "must be finite and neither negative nor grow",
        ),
        (exploration.gaussian, {"annealing_steps": 0}, "annealing_steps must be at least 1"),
        (exploration.gaussian, {"sigma_init": math.inf}, "sigma must be finite and"),
        (exploration.gaussian, {"sigma_end": math.nan}, "sigma must be finite and"),
        (exploration.gaussian, {"mean": math.nan}, "mean must be finite"),
        (exploration.gaussian, {"annealing_steps": math.nan}, "annealing_steps must be at least 1"),
        (exploration.ornstein_uhlenbeck, {"dt": 0.0}, "dt > 0"),
        (exploration.ornstein_uhlenbeck, {"theta": 200.0}, r"theta \* dt from 0 to below 2"),
        (exploration.ornstein_uhlenbeck, {"theta": math.nan}, "got theta=nan"),
        (exploration.ornstein_uhlenbeck, {"mu": math.inf}, "mu finite"),
        (exploration.epsilon_random, {"eps_init": 1.5}, "at most 1"),
    ],
)
def test_bad_settings_are_refused(factory, settings, message):
    with pytest.raises(ValueError, match=message):
        factory(LOW, HIGH, **settings)


@pytest.mark.parametrize("high", [(1.0, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0, math.inf)])
def test_bad_limits_are_refused(high):
    with pytest.raises(ValueError, match="low < high"):
        exploration.none(LOW, high)
