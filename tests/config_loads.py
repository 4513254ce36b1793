"""Loads that tests of the configuration share."""

import re

import pytest
import torch
from tensordict import TensorDict

from rlhive.config import ConfigError, load_config
from rlhive.core.env_spec import EnvSpec

SPEC = EnvSpec("", ("x",), ((0, 1),), 1, 1, (-1.0,), (1.0,), ("a",), 1.0)


def load(*bindings):
    return load_config(["sac_gaussian.gin"], bindings)


def first_step(opt) -> float:
    """How far an optimizer's first update moves a parameter."""
    params = TensorDict({"x": torch.zeros(1)})
    return -opt.update(params + 1.0, opt.init(params), params)[0]["x"].item()


def refusal(*bindings) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*bindings)
    text = str(caught.value)
    assert "\n" not in text
    assert not re.search("not supported between|Attribute\\(|object at 0x|In call to", text)
    return text
