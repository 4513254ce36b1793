"""An encoder that learns: from the critics alone, seed by seed, on shifted images."""

import torch
from torch.func import grad, vmap

from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree import stack_seeds
from rlhive.losses_fn import draw_sac_noise, make_sac_loss
from rlhive.losses_fn.pixels import draw_shifts, make_pixel_loss
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.augment import PAD, random_shift
from rlhive.policy_fn.encoders import cnn
from tests.helpers import make_batch

PIXELS = PixelSpec(cameras=("a", "b"), height=16, width=16)
CNN = cnn(PIXELS, layers=((4, 4, 2), (4, 3, 1)), dim=3)
NETWORK = ActorCritic(5 + 6, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), hidden_sizes=(8,))
BATCH_SIZE = 4


def make_inputs(seed):
    draw = torch.Generator().manual_seed(seed)
    params = NETWORK.init(draw)
    params["encoder"] = CNN.init(draw)
    batch = make_batch(draw, BATCH_SIZE)
    for seen in (batch, batch["next"]):
        seen["pixels"] = torch.randint(256, (BATCH_SIZE, *PIXELS.shape), generator=draw).to(torch.uint8)
    noise = draw_sac_noise(draw, NETWORK, BATCH_SIZE).update(draw_shifts(draw, BATCH_SIZE))
    return params, params.select("critic").clone(), batch, noise


def test_the_loss_is_that_of_the_features_of_shifted_images():
    params, target_params, batch, noise = make_inputs(0)
    by_hand = batch.copy()
    for seen, shift in ((by_hand, "shift"), (by_hand["next"], "next_shift")):
        features = CNN.apply(params["encoder"], random_shift(seen["pixels"], noise[shift]))
        seen["observation"] = torch.cat([seen["observation"], features], dim=-1)
    expected, _ = make_sac_loss(NETWORK)(params, target_params, by_hand, noise)
    batch = make_inputs(0)[2]
    loss, _ = make_pixel_loss(make_sac_loss(NETWORK), CNN)(
        params, target_params, batch.lock_(), noise.lock_()
    )
    torch.testing.assert_close(loss, expected)


def test_the_encoder_learns_from_the_critics_alone():
    params, target_params, batch, noise = make_inputs(1)
    gradient = grad(make_pixel_loss(make_sac_loss(NETWORK), CNN), has_aux=True)
    whole = gradient(params, target_params, batch, noise)[0]["encoder"]
    assert all(leaf.abs().sum() > 0 for leaf in whole.values(True, True))

    def critic_error(encoder):
        """As in the loss, written out."""
        own = params.copy().update({"encoder": encoder})
        seen = torch.cat(
            [batch["observation"], CNN.apply(encoder, random_shift(batch["pixels"], noise["shift"]))], -1
        )
        with torch.no_grad():
            following = batch["next"].copy()
            features = CNN.apply(encoder, random_shift(following["pixels"], noise["next_shift"]))
            following["observation"] = torch.cat([following["observation"], features], -1)
        detached = batch.copy().update({"observation": seen, "next": following})
        _, metrics = make_sac_loss(NETWORK)(own, target_params, detached, noise)
        prediction = NETWORK.value(params["critic"], seen, batch["action"])
        action, log_prob = NETWORK.sample(params["actor"], following["observation"], noise["next_action"])
        value = NETWORK.value(target_params["critic"], following["observation"], action).amin(0)
        soft = value - params["log_alpha"].exp() * log_prob
        live = ~following["terminated"].squeeze(-1)
        target = (following["reward"].squeeze(-1) + 0.95 * live * soft).detach()
        torch.testing.assert_close(metrics["td_error"], (prediction - target).abs().amax(0).detach())
        return (prediction - target).square().sum(0).mean()

    expected = grad(critic_error)(params["encoder"])
    for name, leaf in expected.flatten_keys(".").items():
        torch.testing.assert_close(whole.flatten_keys(".")[name], leaf, rtol=1e-4, atol=1e-6)


def test_seeds_side_by_side_equal_one_after_another():
    inputs = [make_inputs(seed) for seed in (3, 4, 5)]
    gradient = grad(make_pixel_loss(make_sac_loss(NETWORK), CNN), has_aux=True)
    together, _ = vmap(gradient)(*(stack_seeds(list(parts)) for parts in zip(*inputs, strict=True)))
    for index, one in enumerate(inputs):
        alone, _ = gradient(*one)
        for name, leaf in alone.flatten_keys(".").items():
            torch.testing.assert_close(together[index].flatten_keys(".")[name], leaf, rtol=1e-4, atol=1e-6)


def test_shifts_are_drawn_over_their_whole_range():
    noise = draw_shifts(torch.Generator().manual_seed(0), 50)
    assert set(noise.keys()) == {"shift", "next_shift"} and noise["shift"].shape == (50, 2)
    assert int(noise["shift"].min()) == 0 and int(noise["shift"].max()) == 2 * PAD
