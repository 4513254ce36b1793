"""What no file of the library may do, read from its source."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "rlhive").rglob("*.py"))}
PUBLISHED_WEIGHTS = "rlhive/policy_fn/encoder_weights.py"  # the one that reads what others published
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}
# What is above a package, or beside it, which therefore never imports it; policy_fn and runs are of one level.
ABOVE = {
    "core": {path.relative_to(ROOT).parts[1].removesuffix(".py") for path in SOURCES.values()} - {"core"},
    "envs": {"algorithms", "runs", "losses_fn", "policy_fn", "data", "training", "report", "deploy"},
    "losses_fn": {"algorithms", "runs", "envs", "data", "training", "report", "deploy"},
    "policy_fn": {"data", "training", "report", "deploy"},
    "runs": {"envs", "data", "training", "report", "deploy"},
    "data": {"training", "report", "deploy"},
    "training": {"deploy"},
    "deploy": {"training", "report"},
    "report": {"algorithms", "losses_fn", "policy_fn", "envs", "data", "training", "deploy"},
}


def imported(tree):
    """The dotted names of every import in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("name", SOURCES)
def test_gin_is_imported_in_one_file_and_pickle_in_none(name):
    tree = ast.parse(SOURCES[name].read_text())
    names = {name.partition(".")[0] for name in imported(tree)}
    assert ("gin" in names) == (name == "rlhive/config/load.py")
    assert not names & PICKLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in ("load", "save") or name == PUBLISHED_WEIGHTS, f"{name}:{node.lineno}"


@pytest.mark.parametrize("package", ABOVE)
def test_no_package_imports_what_is_above_it(package):
    for name, path in SOURCES.items():
        if name.startswith(f"rlhive/{package}/"):
            names = imported(ast.parse(path.read_text()))
            packages = {dotted.split(".")[1] for dotted in names if dotted.startswith("rlhive.")}
            assert not packages & ABOVE[package], name


@pytest.mark.parametrize("package", ["config", "data", "deploy", "envs", "policy_fn"])
def test_type_checkers_see_the_names_that_load_on_first_use(package):
    path = SOURCES[f"rlhive/{package}/__init__.py"]
    (branch,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    assert branch.test.id == "TYPE_CHECKING"
    seen = {name.asname: node.module for node in branch.body for name in node.names}
    assert seen == importlib.import_module(f"rlhive.{package}")._HOME


def test_published_weights_are_read_as_plain_tensors():
    source = SOURCES[PUBLISHED_WEIGHTS].read_text()
    assert (
        source.count("torch.load(") == source.count("weights_only=True)") == 1 and "torch.save" not in source
    )
