"""What the text of a config.gin says, read without gin. Free of torch."""

from __future__ import annotations

import re

SEED_SETTINGS = {"SEED", "SEEDS", "NUM_SEEDS", "train.seed", "train.seeds", "train.num_seeds"}


def settings(config: str) -> dict[str, str]:
    """The bindings of a config.gin by their names; values that span lines are joined."""
    joined = re.sub(r"\s*\\?\n[ \t]+", " ", config)
    return dict(re.findall(r"^([^\s#=]+) = *(.*)$", joined, flags=re.MULTILINE))
