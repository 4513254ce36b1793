"""Adam against torch.optim.Adam, clipping, schedules, purity."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch.func import vmap

from rlhive.core.optim import adam, apply_updates, clip_by_global_norm, clip_subtrees, cosine_schedule


def random_tree(generator: torch.Generator) -> TensorDict:
    return TensorDict(
        {
            "actor": {"weight": torch.randn(4, 3, generator=generator)},
            "critic": {"weight": torch.randn(2, 5, generator=generator)},
            "log_alpha": torch.randn((), generator=generator),
        }
    )


@pytest.mark.parametrize(
    ("learning_rate", "betas"),
    [
        (1e-3, (0.9, 0.999)),
        (cosine_schedule(1e-2, decay_updates=80, final_fraction=0.1), (0.9, 0.999)),
        (1e-3, (0.0, 0.99)),
        (1e-3, (0.5, 0.0)),
    ],
)
def test_adam_equals_torch_after_100_steps(learning_rate, betas):
    generator = torch.Generator().manual_seed(0)
    params = random_tree(generator)
    opt = adam(learning_rate, b1=betas[0], b2=betas[1])
    opt_state = opt.init(params)
    reference = [leaf.clone().requires_grad_() for leaf in params.values(True, True)]
    torch_adam = torch.optim.Adam(
        reference, lr=1.0 if callable(learning_rate) else learning_rate, betas=betas
    )
    for count in range(100):
        grads = random_tree(generator)
        if callable(learning_rate):
            torch_adam.param_groups[0]["lr"] = float(learning_rate(torch.tensor(count)))
        for leaf, grad in zip(reference, grads.values(True, True), strict=True):
            leaf.grad = grad.clone()
        torch_adam.step()
        updates, opt_state = opt.update(grads.lock_(), opt_state.lock_(), params.lock_())
        params = apply_updates(params, updates)
    for ours, theirs in zip(params.values(True, True), reference, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
    assert opt_state["count"].item() == 100


def test_clip_bounds_the_norm_and_leaves_small_gradients_alone():
    grads = TensorDict({"a": torch.tensor([3.0, 4.0])})
    assert clip_by_global_norm(grads, 1.0)["a"].tolist() == pytest.approx([0.6, 0.8])
    assert clip_by_global_norm(grads, 10.0)["a"].tolist() == [3.0, 4.0]
    assert clip_by_global_norm(TensorDict({"a": torch.zeros(2)}), 1.0)["a"].tolist() == [0.0, 0.0]


def test_each_subtree_is_clipped_by_its_own_norm():
    grads = TensorDict(
        {"critic": {"w": torch.tensor([300.0, 400.0])}, "actor": {"w": torch.tensor([0.3, 0.4])}}
    )
    clipped = clip_subtrees(grads, 1.0)
    assert clipped["critic", "w"].tolist() == pytest.approx([0.6, 0.8])
    assert clipped["actor", "w"].tolist() == pytest.approx([0.3, 0.4])


def test_clipping_under_vmap_does_not_couple_seeds():
    opt = adam(1e-3, max_grad_norm=1.0)
    generator = torch.Generator().manual_seed(1)
    params = torch.stack([random_tree(generator) for _ in range(3)])
    grads = torch.stack([random_tree(generator) for _ in range(3)])
    other = grads.clone()
    other[0] = other[0].apply(lambda leaf: leaf * 1e6)
    other[2] = other[2].apply(lambda leaf: leaf * float("nan"))
    states = vmap(opt.init)(params)
    first, _ = vmap(opt.update)(grads, states, params)
    second, _ = vmap(opt.update)(other, states, params)
    assert (first[1] == second[1]).all()


def test_cosine_schedule_ends_where_it_should():
    schedule = cosine_schedule(2.0, decay_updates=100, final_fraction=0.5)
    values = [float(schedule(torch.tensor(count))) for count in (0, 50, 100, 1000)]
    assert values == pytest.approx([2.0, 1.5, 1.0, 1.0])  # 0.5 + 0.5 * (1 + cos(pi x)) / 2, times 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adam(0.0), "learning_rate must be positive and finite, got 0.0"),
        (lambda: adam(math.inf), "learning_rate must be positive and finite, got inf"),
        (lambda: adam(math.nan), "learning_rate must be positive"),
        (lambda: adam("1e-3"), "learning_rate must be positive and finite, got '1e-3'"),
        (lambda: adam(1e-3, b1=1.0), "b1 and b2"),
        (lambda: adam(1e-3, max_grad_norm=0.0), "max_grad_norm"),
        (lambda: cosine_schedule(1e-3, 0), "decay_updates"),
        (lambda: cosine_schedule(1e-3, math.nan), "decay_updates"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
