"""Time of one action of a deployed policy, beside other libraries, and what loading costs.

    uv run --group bench pytest benchmarks/test_policy_benchmark.py -s

All sides act on the same observations, one CPU thread, networks of 256x256 for the Franka (21 numbers to 9). They take
turns of 1000 calls: the first call after another library's turn finds cold caches (with turns of 100 that one call in a
hundred is the p99).
"""

import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from benchmarks import peers
from rlhive.policy_fn import load
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.bundle import Bundle, write_bundle
from rlhive.runs.run_spec import new_run_spec

CALLS, BLOCK = 10_000, 1_000
P50, P99, RATIO, LOAD_SECONDS = 60.0, 250.0, 3.0, 0.5  # microseconds; times; seconds
IMPORT_SHARE = 0.25  # of what torch and tensordict take, which a policy cannot do without


@pytest.fixture
def bundle(tmp_path):
    network = actor_critic(peers.SPEC, hidden_sizes=(256, 256))
    params = network.init(torch.Generator().manual_seed(0))
    size = peers.OBSERVATION_DIM
    normalizer = {"loc": torch.ones(size), "scale": torch.full((size,), 0.7), "count": torch.tensor(10.0)}
    spec = new_run_spec("sac", peers.SPEC, network)
    env_state = TensorDict({"observation": normalizer})
    write_bundle(tmp_path / "bundle", Bundle(spec, params, env_state, 1, 0))
    return tmp_path / "bundle"


def sb3_policy():
    """Stable-Baselines3's `predict`, deterministic."""
    from stable_baselines3 import SAC

    model = peers._sb3_like(SAC, "MlpPolicy", {"net_arch": [256, 256]})
    return lambda observation: model.predict(observation, deterministic=True)[0]


def torchrl_policy():
    """TorchRL's actor module, deterministic, from array to array; without a normaliser, which would cost more."""
    from torchrl.data import Bounded
    from torchrl.envs.utils import ExplorationType, set_exploration_type
    from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal

    size = peers.ACTION_DIM
    head = nn.Sequential(*peers._layers(peers.OBSERVATION_DIM, 2 * size, norm=False), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(head, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        spec=Bounded(-torch.ones(size), torch.ones(size)),
    )

    def act(observation):
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            return actor(TensorDict({"observation": torch.from_numpy(observation)}))["action"].numpy()

    return act


def by_key(policy):
    def act(observation):
        return policy({"state": observation})

    return act


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_one_action(bundle, one_thread):
    pytest.importorskip("stable_baselines3")
    policy = load(bundle)
    sides = {"RLHive": policy, "RLHive, by key": by_key(policy)}
    sides |= {"SB3 predict": sb3_policy(), "TorchRL actor": torchrl_policy()}
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(CALLS, peers.OBSERVATION_DIM)).astype(np.float32)
    for act in sides.values():
        for observation in observations[:500]:
            act(observation)
    times = {name: [] for name in sides}
    for start in range(0, CALLS, BLOCK):
        for name, act in sides.items():
            for observation in observations[start : start + BLOCK]:
                started = time.perf_counter_ns()
                act(observation)
                times[name].append((time.perf_counter_ns() - started) / 1e3)
    p50 = {name: statistics.median(of_side) for name, of_side in times.items()}
    p99 = {name: float(np.percentile(of_side, 99)) for name, of_side in times.items()}
    ratios = {name: value / p50["RLHive"] for name, value in p50.items()}
    for name in sides:
        print(f"\n{name}: p50 {p50[name]:.1f} us, p99 {p99[name]:.1f} us, {ratios[name]:.2f} times", end="")
    print()
    assert p50["RLHive"] <= P50 and p99["RLHive"] <= P99
    assert ratios["SB3 predict"] >= RATIO and ratios["TorchRL actor"] >= RATIO


SCRIPT = """
import sys, time
times = [time.perf_counter()]
import torch
import tensordict
times.append(time.perf_counter())
import rlhive.policy_fn.loading
times.append(time.perf_counter())
rlhive.policy_fn.load(sys.argv[1])
times.append(time.perf_counter())
print(*(after - before for before, after in zip(times, times[1:])))
"""


def test_loading_in_a_fresh_process(bundle):
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT, bundle], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    medians = map(statistics.median, zip(*(map(float, run.stdout.split()) for run in runs), strict=True))
    torch_alone, imported, loaded = medians
    print(
        f"\nimport of torch and tensordict {torch_alone:.1f} s, of the rest {1e3 * imported:.0f} ms, ", end=""
    )
    print(f"load {1e3 * loaded:.0f} ms")
    assert imported < IMPORT_SHARE * torch_alone
    assert loaded < LOAD_SECONDS
