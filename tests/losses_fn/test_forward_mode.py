"""Forward and reverse mode give the same derivative of every loss: what is no part of it is cut from both."""

import pytest
import torch
from tensordict import TensorDict
from torch.func import grad, jvp

from rlhive.algorithms import ALGORITHMS
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree import leaves, map_tree
from rlhive.losses_fn.pixels import draw_shifts, make_pixel_loss
from rlhive.policy_fn.encoders import cnn
from tests.helpers import make_batch, make_spec

PIXELS = PixelSpec(cameras=("a",), height=16, width=16)
CNN = cnn(PIXELS, layers=((4, 4, 2), (4, 3, 1)), dim=3)


def double(tree: TensorDict) -> TensorDict:
    return map_tree(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, tree)


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_directional_derivative_is_the_gradient_times_the_direction(name, sees):
    algorithm, generator = ALGORITHMS[name], torch.Generator().manual_seed(0)
    network = algorithm.make_network(make_spec(), hidden_sizes=(16,), feature_dim=3 * sees)
    params, loss_fn = network.init(generator), algorithm.make_loss(network)
    target_params = network.init(generator).select(*algorithm.target_keys)
    batch, noise = make_batch(generator, 8), algorithm.draw_noise(generator, network, 8)
    if sees:
        params["encoder"], loss_fn = CNN.init(generator), make_pixel_loss(loss_fn, CNN)
        noise = draw_shifts(generator, 8).update(noise)
        for seen in (batch, batch["next"]):
            seen["pixels"] = torch.randint(256, (8, *PIXELS.shape), generator=generator).to(torch.uint8)
    params, target_params, batch, noise = map(double, (params, target_params, batch, noise))
    direction = map_tree(lambda leaf: torch.randn(leaf.shape, generator=generator).double(), params)

    def loss_of(params):
        return loss_fn(params, target_params, batch, noise)[0]

    slope = sum((a * b).sum() for a, b in zip(leaves(grad(loss_of)(params)), leaves(direction), strict=True))
    torch.testing.assert_close(jvp(loss_of, (params,), (direction,))[1], slope)
