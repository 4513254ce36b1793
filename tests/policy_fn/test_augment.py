"""Random shifts against padding and cropping."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch.func import vmap

from rlhive.policy_fn.augment import PAD, draw_shift, random_shift
from tests.policy_fn.resnets import random_pixels


def padded_and_cropped(pixels, shift):
    height, width = pixels.shape[-3:-1]
    moved = []
    for image, (row, column) in zip(pixels, shift.tolist(), strict=True):
        padded = F.pad(image.permute(0, 3, 1, 2).float(), (PAD, PAD, PAD, PAD), mode="replicate")
        crop = padded[..., row : row + height, column : column + width]
        moved.append(crop.permute(0, 2, 3, 1).to(pixels.dtype))
    return torch.stack(moved)


def test_equals_padding_with_the_edge_and_cropping():
    pixels = random_pixels(16, 2, 12, 20, 9)
    shift = draw_shift(torch.Generator().manual_seed(0), 16)
    shift[0], shift[1] = 0, 2 * PAD
    moved = random_shift(pixels, shift)
    assert moved.dtype == torch.uint8 and torch.equal(moved, padded_and_cropped(pixels, shift))
    assert torch.equal(random_shift(pixels, torch.full((16, 2), PAD)), pixels)


def test_under_vmap_equals_each_seed_alone():
    pixels = random_pixels(3, 4, 1, 8, 8, 3)
    shift = torch.stack([draw_shift(torch.Generator().manual_seed(seed), 4) for seed in range(3)])
    together = vmap(random_shift)(pixels, shift)
    assert torch.equal(
        together, torch.stack([random_shift(*pair) for pair in zip(pixels, shift, strict=True)])
    )


def test_the_shifts_are_uniform_and_the_generators():
    shift = draw_shift(torch.Generator().manual_seed(0), 9000)
    assert shift.shape == (9000, 2) and torch.equal(shift, draw_shift(torch.Generator().manual_seed(0), 9000))
    counts = torch.bincount(shift.flatten())
    assert len(counts) == 2 * PAD + 1 and counts.min() > 1800 and counts.max() < 2200


def test_the_input_is_not_written():
    pixels, shift = random_pixels(2, 1, 8, 8, 3), torch.zeros(2, 2, dtype=torch.int64)
    before = pixels.clone()
    random_shift(pixels, shift)
    assert torch.equal(pixels, before) and not shift.any()
