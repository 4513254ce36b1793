"""docs/settings.md against the code: every setting of a gin file, and its default."""

import inspect
import re
from pathlib import Path

import pytest

from rlhive.algorithms import ALGORITHMS
from rlhive.config import load
from rlhive.config.train_config import TrainConfig
from rlhive.policy_fn.heads import HEADS
from tests.helpers import make_spec

DOCUMENT = (Path(__file__).parents[1] / "docs/settings.md").read_text()


def default_of(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "-"
    if callable(parameter.default):
        return f"`@{parameter.default.__name__}`"
    return f"`{parameter.default!r}`"


def test_every_setting_is_in_the_document_with_its_default():
    written = re.findall(r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", DOCUMENT, flags=re.MULTILINE)
    makers = {"train": TrainConfig, **load._FACTORIES}
    settings = [
        (f"{name}.{parameter}", default_of(inspect.signature(maker).parameters[parameter]))
        for name, maker in makers.items()
        for parameter in load._PARAMETERS[name]
    ]
    assert written == settings


@pytest.mark.parametrize("algorithm", ["bc", "iql"])
def test_the_heads_in_the_document_are_those_that_the_algorithm_takes(algorithm):
    parts = ALGORITHMS[algorithm]
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{algorithm}_network.head`"))
    written = {head for head in HEADS if f'"{head}"' in row}
    for head in written:
        parts.make_loss(parts.make_network(make_spec(), head=head))
    for head in set(HEADS) - written:
        with pytest.raises(ValueError, match=head):
            parts.make_loss(parts.make_network(make_spec(), head=head))
