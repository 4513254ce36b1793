import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, PrioritizedSampler

from rlhive.core.priority import PrioritySampler
from rlhive.core.replay import ReplayBuffer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ours(priority, size=None):
    sampler = PrioritySampler(size or len(priority), alpha=0.7, beta=0.5)
    sampler.add(torch.arange(len(priority)))
    sampler.update(torch.arange(len(priority)), -torch.as_tensor(priority))
    return sampler


@pytest.mark.parametrize("num", [1, 10, 64])
def test_equals_torchrl(num):
    priority = torch.rand(num, generator=generator(1)) + 0.01
    storage = LazyTensorStorage(num)
    storage.set(range(num), TensorDict({"x": torch.arange(num)}, batch_size=num))
    theirs = PrioritizedSampler(num, alpha=0.7, beta=0.5)
    theirs.update_priority(torch.arange(num), priority)
    theirs._rng = generator(5)
    expected, info = theirs.sample(storage, 256)
    index, weight = ours(priority).sample(generator(5), 256, num)
    assert torch.equal(index, expected)
    torch.testing.assert_close(weight, info["priority_weight"])


@pytest.mark.parametrize("num", [1, 5, 10, 64, 100])
def test_draws_do_not_depend_on_how_many_there_can_be(num):
    for filled in range(1, num + 1):
        priority = torch.randn(filled, generator=generator(filled)).mul(10.0).exp()
        exact, roomy = (ours(priority, size).sample(generator(3), 64, filled) for size in (num, 1000))
        assert torch.equal(exact[0], roomy[0]) and torch.equal(exact[1], roomy[1])


def test_one_transition_is_drawn_and_saved_like_several():
    sampler = ours([4.0, 1.0])
    index, weight = sampler.sample(generator(), 1, 2)
    assert index.dtype == torch.int64 and index.shape == weight.shape == (1,)
    several, theirs = sampler.sample(generator(), 1000, 2)
    assert weight == theirs[several == index].unique()
    leaves, _ = sampler.state(1)
    assert leaves.tolist() == [sampler.state(2)[0][0].item()]


def test_by_hand():
    index, weight = ours([4.0, 1.0]).sample(generator(), 10_000, 2)
    assert (index == 0).float().mean().item() == pytest.approx(4**0.7 / (4**0.7 + 1), abs=0.02)
    assert weight[index == 0][0].item() == pytest.approx(4 ** (-0.7 * 0.5))
    assert weight[index == 1][0].item() == pytest.approx(1.0)


def test_new_transitions_get_the_largest_priority():
    sampler = ours([9.0, 0.01, 0.01], size=10)
    sampler.add(torch.tensor([3]))
    index, _ = sampler.sample(generator(), 10_000, 4)
    assert (index == 3).sum().item() == pytest.approx((index == 0).sum().item(), rel=0.1)


def test_without_error_a_transition_is_rare_but_not_lost():
    index, weight = ours([0.0, 1.0]).sample(generator(), 10_000, 2)
    assert (index == 0).float().mean() < 0.01
    assert bool(weight.isfinite().all())


def test_state_and_restore():
    sampler, other = ours([0.3, 5.0, 1.0], size=10), PrioritySampler(10, alpha=0.7, beta=0.5)
    other.restore(*sampler.state(3))
    for each in (sampler, other):
        each.add(torch.tensor([3]))
    for found, expected in zip(
        other.sample(generator(), 64, 4), sampler.sample(generator(), 64, 4), strict=True
    ):
        assert torch.equal(found, expected)


def test_a_torchrl_whose_compiled_part_does_not_load_is_found_at_once(monkeypatch):
    def refuse():
        raise ImportError("undefined symbol")

    monkeypatch.setattr("rlhive.core.priority._trees", refuse)
    ReplayBuffer(10)
    with pytest.raises(ImportError, match="undefined symbol"):
        ReplayBuffer(10, prioritized=True)


@pytest.mark.parametrize("index", [-1, 1, 7000])
def test_a_priority_of_no_transition_is_refused(index):
    flag, number = torch.zeros(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1)
    following = {"observation": number, "reward": number, "terminated": flag, "done": flag}
    replay = ReplayBuffer(10, prioritized=True)
    replay.extend(TensorDict({"observation": number, "action": number, "next": following}, [1, 1]))
    with pytest.raises(ValueError, match="index must be from 0 to 0, of the transitions that are stored"):
        replay.update_priority(torch.tensor([[index]]), torch.ones(1, 1))
