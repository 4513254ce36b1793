"""The functional ResNet against torchvision's with the same weights, and under torch.func."""

import pytest
import torch
from tensordict import TensorDict
from torch.func import grad, vmap

from rlhive.core.tree_file import named_leaves
from rlhive.policy_fn.encoder_weights import module_weights
from rlhive.policy_fn.resnet import DEPTHS, ResNet, fold
from tests.policy_fn.resnets import assert_same_embeddings, torchvision_resnet


def images(count, size=64, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("depth", DEPTHS)
def test_golden_embeddings_equal_torchvision(depth):
    reference, network, batch = torchvision_resnet(depth), ResNet(depth), images(2, 224)
    params = module_weights(reference)
    expected = reference(batch)
    assert expected.shape == (2, network.feature_dim)
    for tree in (params, fold(params)):
        assert_same_embeddings(network.apply(tree, batch), expected)
        channels_last = batch.contiguous(memory_format=torch.channels_last)
        assert_same_embeddings(network.apply(tree, channels_last), expected)


@pytest.mark.parametrize("depth", DEPTHS)
def test_init_has_torchvisions_names_shapes_and_spread(depth):
    params = ResNet(depth).init(torch.Generator().manual_seed(3))
    again = ResNet(depth).init(torch.Generator().manual_seed(3))
    assert (params == again).all()
    reference = torchvision_resnet(depth).state_dict()
    found = named_leaves(params)
    shapes = {name.replace(".", "/"): leaf.shape for name, leaf in reference.items() if leaf.dim()}
    assert {name: leaf.shape for name, leaf in found.items()} == shapes
    expected = reference["layer4.1.conv2.weight"].std()
    torch.testing.assert_close(found["layer4/1/conv2/weight"].std(), expected, rtol=0.01, atol=0.0)


def test_several_sets_of_weights_under_vmap_equal_a_loop():
    network, batch = ResNet(18), images(2)
    trees = [network.init(torch.Generator().manual_seed(seed)) for seed in range(3)]
    for each in (trees, [fold(tree) for tree in trees]):
        together = vmap(network.apply, (0, None))(torch.stack(each), batch)
        for index, tree in enumerate(each):
            assert_same_embeddings(together[index], network.apply(tree, batch))


def test_gradients_equal_autograd_of_torchvision_and_leave_the_statistics_alone():
    reference, network, batch = torchvision_resnet(18), ResNet(18), images(2)
    params = module_weights(reference)
    before = params.clone()
    gradient = named_leaves(grad(lambda tree: network.apply(tree, batch).square().mean())(params))
    assert (params == before).all()
    reference.zero_grad()
    reference(batch).square().mean().backward()
    for name, parameter in reference.named_parameters():
        found = gradient.pop(name.replace(".", "/"))
        torch.testing.assert_close(
            found, parameter.grad, rtol=1e-3, atol=1e-5 * parameter.grad.abs().max().item()
        )
    assert all(name.rpartition("/")[2].startswith("running_") for name in gradient)
    assert not any(leaf.any() for leaf in gradient.values())


def test_gradients_of_seeds_under_vmap_equal_those_alone():
    network = ResNet(18)
    batches = torch.stack([images(2, seed=seed) for seed in range(2)])
    trees = [network.init(torch.Generator().manual_seed(seed)) for seed in range(2)]
    gradient = grad(lambda tree, batch: network.apply(tree, batch).square().mean())
    together = vmap(gradient)(torch.stack(trees), batches)
    for index, tree in enumerate(trees):
        alone = named_leaves(gradient(tree, batches[index]))
        for name, leaf in named_leaves(together[index]).items():
            scale = alone[name].abs().max().item()
            torch.testing.assert_close(leaf, alone[name], rtol=1e-3, atol=1e-4 * scale)


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="depth"):
        ResNet(101)
    assert isinstance(ResNet(18).init(torch.Generator()), TensorDict)
