"""torchvision's ResNets with BatchNorm statistics as training leaves them, and the authors' R3M around one."""

import functools

import torch
import torchvision
from torch import nn
from torchvision import transforms


@functools.cache
def torchvision_resnet(depth):
    """In eval mode, without its head, with weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(depth)
        module = getattr(torchvision.models, f"resnet{depth}")()
        for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            nn.init.normal_(norm.running_mean, 0.0, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.2, 0.8)
            nn.init.normal_(norm.bias, 0.0, 0.1)
    module.fc = nn.Identity()
    return module.eval()


class R3MModule(nn.Module):
    """As the authors write theirs: what its forward does to an image of 0..255, and its names."""

    def __init__(self, depth):
        super().__init__()
        self.convnet = torchvision_resnet(depth)
        self.lang_rew = nn.Linear(2, 2)
        self.normlayer = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

    def forward(self, images, obs_shape):
        preprocess = self.normlayer
        if obs_shape != [3, 224, 224]:
            preprocess = nn.Sequential(transforms.Resize(256), transforms.CenterCrop(224), self.normlayer)
        return self.convnet(preprocess(images.float() / 255.0))


def r3m_module(depth):
    """What the authors' `load_r3m` returns."""
    return nn.DataParallel(R3MModule(depth)).eval()


def random_pixels(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def assert_same_embeddings(found, expected):
    """To 1e-5 of the largest feature."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)
