"""docs/extending.md: its blocks are one program that runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from rlhive.envs import simhive

ROOT = Path(__file__).parents[1]
# An algorithm that is there before the first configuration becomes no name of gin files by that.
EARLY = """
from rlhive.algorithms import ALGORITHMS
ALGORITHMS["early"] = ALGORITHMS["sac"]._replace(make_network=lambda spec, width=8: None)
"""
CHECKS = """
import rlhive.config.load
assert "early_network" not in rlhive.config.load._FACTORIES

observation = torch.zeros(size)
assert torch.equal(policy(observation), policy.apply(policy.params, policy.env_state, observation[None])[0])
assert load_config("sac.gin", bindings).make_loss.settings == {"gamma": 0.9}
encoder = seeing.make_encoder()
assert encoder == Colours(4) == KINDS["colours"].from_dict(encoder.to_dict())
images = torch.full((5, 1, 64, 64, 3), 255, dtype=torch.uint8)
assert torch.allclose(encoder.apply(weights := encoder.init(1), images), weights["weight"].sum(-1))
assert seen["observation"].shape == (2, 1, size) and action.shape == (2, 1, 9) and reward.shape == (2, 1, 1)
assert metrics["loss"].shape == (3,) and len(set(metrics["loss"].tolist())) == 3
made = policy.params["actor"].flatten_keys(".")
by_hand = state[0]["params", "actor"].flatten_keys(".")
assert all(torch.equal(made[name], by_hand[name]) for name in made.keys())
assert states["params", "actor", "layer_0", "weight"].shape == (3, 32, size)
"""


def test_the_blocks_are_a_program_that_runs(tmp_path):
    simhive.ensure()
    text = (ROOT / "docs/extending.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "program.py"
    path.write_text(EARLY + "".join(code) + CHECKS)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, path], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
