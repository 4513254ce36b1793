"""The learner on a GPU: one CUDA graph, the same results as on the CPU, and a run from beginning to end."""

import gc
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict
from torch._inductor.utils import fresh_cache
from torch.profiler import ProfilerActivity, profile

import gin
from rlhive.config import load_config
from rlhive.core.capture import capture
from rlhive.core.keys import make_generators
from rlhive.core.random import Key, normal
from rlhive.core.tree import send, stack_seeds, to_device
from rlhive.losses_fn import draw_sac_noise
from rlhive.training.learner import keys_of, make_learner
from tests.helpers import make_batch, make_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SMALL = ["sac_network.hidden_sizes=(64, 64)", "train.batch_size=32"]


def learn(device, *, seeds=(1,), compile=True):
    """A learner, the generators of its seeds and their first state."""
    settings = [f"DEVICE='{device}'", f"SEEDS={list(seeds)}", f"train.compile={compile}"]
    config = load_config(["sac.gin"], [*SMALL, *settings])
    learner, generators = make_learner(config, make_spec()), [make_generators(seed) for seed in seeds]
    gin.clear_config()
    return learner, generators, learner.init(generators)


def batches(seeds, number):
    return stack_seeds([make_batch(torch.Generator().manual_seed(100 * seed + number), 32) for seed in seeds])


def train(device, *, seeds=(1,), updates=20, compile=True):
    learner, generators, state = learn(device, seeds=seeds, compile=compile)
    for number in range(updates):
        batch = to_device(batches(seeds, number), device)
        state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
    return state.cpu(), metrics.cpu()


def test_a_captured_function_writes_neither_arguments_nor_results():
    def run(a, b, count):
        return a + b, a * 2.0, count + 1, a

    first = [torch.randn(3, 4, device="cuda"), torch.randn(3, 4, device="cuda").mT.contiguous().mT]
    first.append(torch.tensor(7, device="cuda"))
    captured = capture(run, first)
    second = [one.clone() * 3 for one in first]
    kept = [one.clone() for one in (*first, *second)]
    results = captured(*first)
    saved = [one.clone() for one in results]
    others = captured(*second)
    for found, expected in ((results, run(*first)), (others, run(*second)), (results, saved)):
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert all(one.equal(other) for one, other in zip((*first, *second), kept, strict=True))


def test_the_constants_of_an_update_outlive_its_tracing():
    """Action limits whose memory another tensor had taken would be that tensor's values."""
    learner, generators, state = learn("cuda")
    batch, noise = to_device(batches((1,), 0), "cuda"), learner.draw_loss_noise(generators)
    expected, _ = learner.train_step(state, batch, noise)
    gc.collect()
    others = [torch.full((2,), 1e9, device="cuda") for _ in range(10_000)]
    found, _ = learner.train_step(state, batch, noise)
    assert len(others) and bool((found["params"] == expected["params"]).all())


def test_a_captured_function_refuses_other_shapes():
    captured = capture(lambda a: [a + 1], [torch.zeros(3, 4, device="cuda")])
    with pytest.raises(ValueError, match="shapes that it was captured with"):
        captured(torch.zeros(1, 4, device="cuda"))


def test_a_tensor_expanded_from_a_smaller_one_is_sent():
    leaf = torch.arange(3.0).expand(2, 3)
    assert send(leaf, "cuda").cpu().equal(leaf)


def test_a_key_draws_on_a_gpu_what_it_draws_on_the_cpu():
    found = normal(Key(torch.tensor(5, device="cuda"), torch.tensor(9, device="cuda")), 2, 9, 256)
    torch.testing.assert_close(found.cpu(), normal(Key(torch.tensor(5), torch.tensor(9)), 2, 9, 256))


def test_an_update_equals_that_of_the_cpu_with_the_same_noise():
    learner, generators, state = learn("cpu", compile=False)
    own = Key(keys_of([generators[0]["loss"]])["key"][0], torch.tensor(0))
    noise = stack_seeds([draw_sac_noise(own, learner.network, 32)])
    expected, _ = learner.train_step(state, batches((1,), 0), noise)
    found, _ = train("cuda", updates=1)
    for name in ("params", "target_params", "opt_state"):
        for one, other in zip(found[name].values(True, True), expected[name].values(True, True), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_compiled_and_captured_updates_equal_plain_ones():
    compiled, _ = train("cuda")
    plain, _ = train("cuda", compile=False)
    for one, other in zip(
        compiled["params"].values(True, True), plain["params"].values(True, True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("compile", [False, True])
def test_an_update_reads_no_memory_of_the_host(compile):
    """A captured graph that did would read what has long been another's."""
    learner, generators, state = learn("cuda", compile=compile)
    batch, noise = to_device(batches((1,), 0), "cuda"), learner.draw_loss_noise(generators)
    seen = TensorDict({"observation": batch["observation"][:, :1]}, [1, 1])
    action_noise = torch.randn(1, 1, 2, device="cuda")
    for _ in range(2):
        learner.train_step(state, batch, noise)
        learner.act(state, seen, action_noise)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        learner.train_step(state, batch, noise)
        learner.act(state, seen, action_noise)
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = {event.name for event in events if event.name.startswith("Memcpy")}
    assert len(events) > 10 + len(copies)  # kernels were recorded
    assert not {name for name in copies if "HtoD" in name or "Host" in name}, copies


def test_a_run_repeats_itself():
    """Compiled anew too: no kernel that rounds differently is chosen by its time."""
    with fresh_cache():
        one = train("cuda")
    with fresh_cache():
        other = train("cuda")
    assert bool((one[0] == other[0]).all()) and bool((one[1] == other[1]).all())


def test_a_seed_is_among_others_what_it_is_alone():
    """To rounding: the matrix library chooses its kernels by the number of seeds."""
    together, _ = train("cuda", seeds=(1, 2, 3))
    alone, _ = train("cuda", seeds=(2,))
    for one, other in zip(
        together[1]["params"].values(True, True), alone[0]["params"].values(True, True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.timeout(900)
def test_a_run_trains_on_a_gpu_and_goes_on_from_its_checkpoint(tmp_path):
    """A run that was interrupted and resumed ends with the bits of one that was not."""

    def run(directory, steps, *more):
        settings = [f"TOTAL_STEPS={steps}", "NUM_SEEDS=2", "DEVICE='cuda'", "train.compile=True"]
        settings += ["train.init_random_steps=300", "train.evaluation_episodes=2", *more]
        command = [sys.executable, "-m", "rlhive.train", "--gin_file=sac_gaussian.gin", "--resume"]
        command = command[:-1] if not directory.exists() else command
        return subprocess.run(
            [*command, f"--run_dir={directory}", *(f"--gin.{setting}" for setting in settings)],
            check=True,
            capture_output=True,
            text=True,
        )

    run(tmp_path / "whole", 600)
    run(tmp_path / "parts", 450)
    run(tmp_path / "parts", 600)
    whole, parts = (tmp_path / name / "checkpoints" / "600" for name in ("whole", "parts"))
    assert json.loads((tmp_path / "whole" / "usage.json").read_text())["gpu_peak_memory_bytes"] > 1e6
    paths = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(paths) == 6
    for path in paths:
        one, other = load_file(whole / path), load_file(parts / path)
        assert one.keys() == other.keys()
        assert not {name: one[name] - other[name] for name in one if not one[name].equal(other[name])}, path
    command = [
        sys.executable,
        "-m",
        "rlhive.evaluate",
        f"--run_dir={tmp_path / 'whole'}",
        "--episodes=2",
        "--json",
    ]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(json.loads(told)["seeds"]) == 2
