"""docs/parameters.md against the code: every leaf of every algorithm, its shape and its selection."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rlhive.algorithms import ALGORITHMS, POLICY_KEYS
from rlhive.core.optim import adam
from rlhive.core.train_step import init_state
from rlhive.core.tree_file import named_leaves
from rlhive.policy_fn import load
from rlhive.policy_fn.heads import HEADS

DOCUMENT = (Path(__file__).parents[1] / "docs/parameters.md").read_text()
SIZES = {"H0": 5, "H1": 6, "N": 3}


def table(*columns):
    """The rows of the one table with these columns."""
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    assert DOCUMENT.count(head) == 1, f"docs/parameters.md needs one table with the columns {columns}"
    lines = DOCUMENT.split(head)[1].split("\n\n")[0].splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def shape_of(text, spec):
    """`[N, H0, O+A]` as numbers."""
    sizes = {**SIZES, "O": spec.observation_dim, "A": spec.action_dim}
    text = re.sub(r"(\d)([A-Z])", r"\1*\2", text.strip("[]"))
    return tuple(eval(size, {}, sizes) for size in text.split(",") if size)


def heads_of(algorithm):
    """The heads that its actor may have; None where it has no choice."""
    if "head" not in inspect.signature(ALGORITHMS[algorithm].make_network).parameters:
        return [None]
    return [head for head in HEADS if algorithm != "iql" or HEADS[head].log_prob is not None]


@pytest.fixture(params=[(name, head) for name in sorted(ALGORITHMS) for head in heads_of(name)], ids=str)
def choice(request):
    return request.param


@pytest.fixture
def algorithm(choice):
    return choice[0]


@pytest.fixture(params=[(False, True), (True, False)], ids=["default", "norm swapped"])
def network(request, choice, franka_spec):
    make_network = ALGORITHMS[choice[0]].make_network
    settings = {
        "hidden_sizes": (SIZES["H0"], SIZES["H1"]),
        "num_critics": SIZES["N"],
        "actor_layer_norm": request.param[0],
        "critic_layer_norm": request.param[1],
        "head": choice[1],
    }
    taken = inspect.signature(make_network).parameters
    return make_network(
        franka_spec,
        **{name: value for name, value in settings.items() if name in taken and value is not None},
    )


def holds(condition, network):
    """Whether `actor_layer_norm`, `head=gaussian` or nothing is true of the network."""
    name, _, value = condition.partition("=")
    return not condition or getattr(network, name) == (value or True)


def documented_params(algorithm, network, spec):
    return {
        leaf: shape_of(shape, spec)
        for names, leaf, shape, condition in table("algorithms", "leaf", "shape", "there when")
        if algorithm in names.split(", ") and holds(condition, network)
    }


def documented_env_state(spec):
    return {leaf: shape_of(shape, spec) for leaf, shape, _ in table("leaf", "shape", "what it is")}


def test_params_are_as_documented(algorithm, network, franka_spec):
    params = named_leaves(network.init(torch.Generator()))
    documented = documented_params(algorithm, network, franka_spec)
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == documented
    assert {leaf.dtype for leaf in params.values()} == {torch.float32}


def test_train_state_is_as_documented(algorithm, network, franka_spec):
    keys = ALGORITHMS[algorithm].target_keys
    params = network.init(torch.Generator())
    state = init_state(params, adam(1e-3), observation_dim=franka_spec.observation_dim, target_keys=keys)
    assert list(state.keys()) == [name for name, _ in table("subtree", "what it holds")]

    documented = documented_params(algorithm, network, franka_spec)
    expected = {f"params/{name}": shape for name, shape in documented.items()}
    expected |= {
        f"target_params/{name}": shape for name, shape in documented.items() if name.startswith(keys)
    }
    expected |= {
        f"opt_state/{moment}/{name}": documented[name] for moment in ("mu", "nu") for name in documented
    }
    expected |= {f"env_state/{name}": shape for name, shape in documented_env_state(franka_spec).items()}
    expected |= {"opt_state/count": (), "step": ()}
    leaves = named_leaves(state)
    assert {name: tuple(leaf.shape) for name, leaf in leaves.items()} == expected
    assert {name for name, leaf in leaves.items() if leaf.dtype == torch.int64} == {"opt_state/count", "step"}


def test_selections_are_as_documented():
    rows = table("algorithm", "policy reads (`POLICY_KEYS`)", "has a target network (`target_keys`)")
    documented = {
        name: tuple(() if keys == "none" else tuple(keys.split(", ")) for keys in selections)
        for name, *selections in rows
    }
    code = {name: (entry.policy_keys, entry.target_keys) for name, entry in ALGORITHMS.items()}
    assert documented == code
    assert {name: policy for name, (policy, _) in documented.items()} == POLICY_KEYS


def test_header_fields_are_as_documented(make_run):
    documented = {field for field, _ in table("field", "meaning")}
    for path in (make_run().run_dir / "checkpoints/100").iterdir():
        with safe_open(path, "pt") as file:
            assert set(file.metadata()) == documented


def test_example_runs(make_run, monkeypatch):
    run_dir = make_run("runs/franka", seeds=(1, 2)).run_dir
    monkeypatch.chdir(run_dir.parents[1])
    example = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) <= 5
    names = {}
    exec(example, names)
    assert names["action"].shape == (9,)
    assert load("runs/franka", seed=2).spec == names["policy"].spec
