"""Traced functions equal the original bit for bit; compiled ones to rounding; neither is traced twice."""

import logging
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tensordict import TensorDict
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from rlhive.core.compile import (
    lift_constants,
    prepare_compiler,
    trace,
    traced_at_first_call,
)
from rlhive.core.optim import adam
from rlhive.core.products import turn_products
from rlhive.core.train_step import make_train_step
from rlhive.losses_fn import make_sac_loss
from rlhive.machine import has_compiler
from rlhive.policy_fn.actor import ActorCritic, actor_critic
from tests.helpers import make_network, make_sac_inputs, make_spec


def make_inputs(num_seeds: int, batch_size: int = 16, network: ActorCritic | None = None):
    network, opt = network or make_network(), adam(1e-3)
    step = vmap(make_train_step(make_sac_loss(network), opt))
    return step, *make_sac_inputs(network, opt, range(num_seeds), batch_size)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_traced_train_step_equals_the_eager_one_bit_for_bit(num_seeds):
    step, state, batch, noise = make_inputs(num_seeds)
    traced = trace(step, state, batch, noise)
    eager_state = state
    for _ in range(3):
        state, metrics = traced(state, batch, noise)
        eager_state, eager_metrics = step(eager_state, batch, noise)
    assert (state == eager_state).all() and (metrics == eager_metrics).all()


def test_compiled_seeds_do_not_depend_on_how_many_there_are_and_agree_with_eager_ones(two_threads):
    assert has_compiler(), "install g++: Inductor needs it"
    # Threads would share the sums over a minibatch of this size, for one seed alone; and there are as many seeds as
    # fill a vector, which would choose other kernels for them.
    network = actor_critic(make_spec(), hidden_sizes=(16,))
    step, state, batch, noise = make_inputs(17, 2048, network)
    together, alone = (traced_at_first_call(step, compile=True) for _ in range(2))
    states, own, eager = state, state[1:2], state[1:2]
    for number in range(10):
        states, metrics = together(states, batch, noise)
        own, own_metrics = alone(own, batch[1:2], noise[1:2])
        if number < 5:
            eager, eager_metrics = step(eager, batch[1:2], noise[1:2])
            torch.testing.assert_close(own_metrics["loss"], eager_metrics["loss"], rtol=1e-4, atol=1e-5)
            compiled_params = own["params"].flatten_keys(".")
            for name, leaf in eager["params"].flatten_keys(".").items():
                torch.testing.assert_close(compiled_params[name], leaf, rtol=1e-4, atol=1e-5, msg=name)
    assert (states[1:2] == own).all() and (metrics[1:2] == own_metrics).all()


def test_compiled_seeds_with_a_single_critic_do_not_depend_on_how_many_there_are(two_threads):
    # With as many hidden units as rows in a minibatch, sums over the one and over the other could be one loop.
    network = actor_critic(
        make_spec(21, (-1.0,) * 9, (1.0,) * 9), hidden_sizes=(64,), num_critics=1, critic_layer_norm=True
    )
    _, state, batch, noise = make_inputs(5, 64, network)
    gradient = vmap(grad_and_value(make_sac_loss(network), has_aux=True))

    def update(params, target_params, batch, noise):
        grads, (_, metrics) = gradient(params, target_params, batch, noise)
        return grads, metrics

    arguments = state["params"], state["target_params"], batch, noise
    own = tuple(tree[2:3] for tree in arguments)
    grads, metrics = trace(update, *arguments, compile=True)(*arguments)
    own_grads, own_metrics = trace(update, *own, compile=True)(*own)
    assert (grads[2:3] == own_grads).all() and (metrics[2:3] == own_metrics).all()


def test_a_transposed_product_comes_out_as_it_is_read():
    def gradient(x, upstream):
        return (x.mT @ upstream).mT.mT.mT

    examples = torch.randn(3, 7, 5), torch.randn(3, 7, 4)
    module = make_fx(gradient)(*examples)
    turn_products(module.graph)
    module.recompile()
    assert module(*examples).is_contiguous()
    torch.testing.assert_close(module(*examples), gradient(*examples))


def test_the_function_is_run_once_whatever_the_number_of_calls():
    calls = []

    def double(tree: TensorDict) -> TensorDict:
        calls.append(tree)
        return TensorDict({"x": 2 * tree["x"]}, batch_size=[1])

    traced = traced_at_first_call(double)
    results = [
        traced(TensorDict({"x": torch.tensor([float(value)])}, batch_size=[1]))["x"].item()
        for value in range(3)
    ]
    assert results == [0.0, 2.0, 4.0]
    assert len(calls) == 1


def test_tracing_computes_nothing():
    huge = 1 << 50  # four petabytes of float32
    trace(lambda x: torch.ones(huge, dtype=x.dtype).mul(x).sum(), torch.ones(1))


def test_leaves_are_taken_by_name_whatever_their_order():
    traced = trace(
        lambda tree: tree["a"] - tree["b"], TensorDict({"a": torch.ones(()), "b": torch.zeros(())})
    )
    assert traced(TensorDict({"b": torch.tensor(1.0), "a": torch.tensor(5.0)})).item() == 4.0


def test_trees_without_leaves_are_trees():
    def count(tree, nothing):
        return TensorDict({"x": tree["x"] + len(nothing.keys()), "none": tree["none"]}, tree.batch_size)

    tree, nothing = TensorDict({"x": torch.ones(2), "none": {}}, [2]), TensorDict({}, [2])
    result = trace(count, tree, nothing)(tree, nothing)
    assert set(result.keys()) == {"x", "none"} and result["x"].tolist() == [1, 1]


def test_a_compiled_function_refuses_other_shapes_instead_of_compiling_again():
    compiled = trace(lambda x: x.sin(), torch.zeros(4), compile=True)
    assert compiled(torch.ones(4)).shape == (4,)
    with pytest.raises(AssertionError, match="expected size"):
        compiled(torch.ones(5))


def test_compiling_is_logged_once_until_seeds_leave(caplog):
    doubled = traced_at_first_call(lambda x: 2 * x, compile=True, name="the double")
    with caplog.at_level(logging.INFO, logger="rlhive"):
        for num_seeds in (2, 2, 1, 1):
            doubled(torch.zeros(num_seeds, 3))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in lines[::2]] == [
        "compiling the double of 2 seed(s)",
        "compiling the double of 1 seed(s)",
    ]
    assert all(line.startswith("compiled in ") for line in lines[1::2])


FIND = """
import sys
import torch
from torch._dynamo.utils import counters
from rlhive.core.compile import trace

factor = float(sys.argv[1])
compiled = trace(lambda x: (factor * x.sin()).sum(-1), torch.zeros(3, 5), compile=True)
print(compiled(torch.ones(3, 5)).tolist(), counters["inductor"]["fxgraph_cache_hit"])
"""


def test_another_process_finds_what_was_compiled():
    factor = random.random()  # which no earlier process has compiled
    with torch._inductor.config.patch({"cpp.vec_isa_ok": None}):  # a part of what it is found by
        here = trace(lambda x: (factor * x.sin()).sum(-1), torch.zeros(3, 5), compile=True)(torch.ones(3, 5))
    command = [sys.executable, "-c", FIND, str(factor)]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert there.strip() == f"{here.tolist()} 1"


def test_a_signal_to_all_processes_of_a_command_leaves_the_compiler_to_its_work(tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-shared*) kill -TERM $$;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    factor = random.random()  # or no compiler would be needed
    settings = {
        "cpp.cxx": (None, str(compiler)),
        "cpp.vec_isa_ok": True,
        "cpp_cache_precompile_headers": False,
    }
    with torch._inductor.config.patch(settings):
        doubled = trace(lambda x: factor * x.sin(), torch.zeros(3, 5), compile=True)(torch.ones(3, 5))
    torch.testing.assert_close(doubled, factor * torch.ones(3, 5).sin())


@pytest.mark.parametrize(("compiler", "trusted"), [("true", True), ("false", None)])
def test_a_compiler_that_refuses_vector_instructions_is_left_to_inductor(monkeypatch, compiler, trusted):
    from torch._inductor import config, cpp_builder, cpu_vec_isa

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: compiler)
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2"])
    with config.patch({"cpp.vec_isa_ok": None}):
        prepare_compiler()
        assert config.cpp.vec_isa_ok is trusted


@pytest.mark.parametrize("compile", [False, True])
def test_constants_become_arguments(compile):
    """As on a GPU, where a captured graph would fetch them from host memory that is no longer theirs."""

    def scale(values):
        low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0])
        return [low + (high - low) * values.sigmoid()]

    values = torch.randn(3, 2)
    graph = make_fx(scale, tracing_mode="fake")(values)
    constants = lift_constants(graph, torch.device("cpu"))
    graph.recompile()
    assert [constant.tolist() for constant in constants] == [[-1.0, -2.0], [1.0, 2.0]]
    assert not graph.graph.find_nodes(op="get_attr")
    if compile:
        graph = torch._inductor.standalone_compile(
            graph, [values, *constants], dynamic_shapes="from_example_inputs"
        )
    torch.testing.assert_close(graph(values, *constants), scale(values))


def test_several_threads_trace_one_after_another():
    def double(x):
        return 2.0 * x.sin()

    def trace_many(thread):
        inputs = [torch.arange(1.0 + number)[:, None] + thread for number in range(30)]
        return all(traced_at_first_call(double)(x).equal(double(x)) for x in inputs)

    trace_many(0)  # what torch imports at the first
    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(trace_many, (1, 2)))
