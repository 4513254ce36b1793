"""Tree operations: values, purity, and vmap."""

import torch
from tensordict import TensorDict
from torch.func import vmap

from rlhive.core import tree


def make_tree(scale: float = 1.0) -> TensorDict:
    return TensorDict(
        {"a": torch.tensor([3.0, 0.0]) * scale, "b": {"c": torch.tensor([[4.0]]) * scale}}
    ).lock_()


def test_polyak_takes_tau_of_the_new():
    mixed = tree.polyak(make_tree(1.0), make_tree(2.0), tau=0.25)
    assert mixed["a"].tolist() == [3.75, 0.0]  # 0.75 * 3 + 0.25 * 6
    assert mixed["b", "c"].item() == 5.0


def test_global_norm_is_over_all_leaves():
    assert tree.global_norm(make_tree()).item() == 5.0


def test_replacing_an_entry_shares_the_others_and_leaves_the_tree_alone():
    before = make_tree()
    after = tree.replace(before, {"a": torch.zeros(2)})
    assert after["a"].tolist() == [0.0, 0.0] and before["a"].tolist() == [3.0, 0.0]
    assert after["b", "c"] is before["b", "c"]
    assert after.batch_size == before.batch_size


def test_a_tree_that_is_on_the_device_is_not_copied():
    moved = tree.to_device(make_tree(), "cpu")
    assert (moved == make_tree()).all()
    assert tree.to_device(moved, "cpu")["b", "c"] is moved["b", "c"]
    assert tree.to_device(moved, "meta")["b", "c"].is_meta


def test_operations_work_under_vmap():
    stacked = tree.stack_seeds([make_tree(1.0), make_tree(2.0)])
    norms = vmap(tree.global_norm)(stacked)
    mixed = vmap(lambda old, new: tree.polyak(old, new, 0.5))(stacked, stacked)
    assert norms.tolist() == [5.0, 10.0]
    assert (mixed == stacked).all()


def test_leaves_by_path_make_a_tree_of_one_batch_size():
    leaves = {"a": torch.zeros(2, 3), ("next", "a"): torch.ones(2, 3), ("next", "b"): torch.ones(2, 1)}
    made = tree.tree_of_leaves(leaves, torch.Size([2]))
    assert (made == TensorDict(leaves, batch_size=[2])).all()
    assert made.batch_size == made["next"].batch_size == (2,)


def test_stacked_seeds_keep_a_transposed_leaf_transposed():
    seeds = [
        TensorDict({"a": torch.arange(6.0).view(2, 3).mT * scale, "b": {"c": torch.tensor(scale)}})
        for scale in (1.0, 2.0)
    ]
    stacked = tree.stack_seeds(seeds)
    assert stacked.batch_size == stacked["b"].batch_size == (2,)
    assert stacked["a"].shape == (2, 3, 2) and stacked["a"].mT.is_contiguous()
    assert (stacked == torch.stack(seeds)).all()


def test_stacked_seeds_may_have_leaves_of_one_dimension_with_gaps():
    seeds = [TensorDict({"a": (torch.arange(6.0) * scale)[::2]}) for scale in (1.0, 2.0)]
    assert tree.stack_seeds(seeds)["a"].tolist() == [[0.0, 2.0, 4.0], [0.0, 4.0, 8.0]]
