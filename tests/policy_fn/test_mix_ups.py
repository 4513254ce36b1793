"""Renamed directories, changed descriptions, and other things that are not what they are taken for."""

import itertools
import json
import shutil

import attrs
import pytest

from rlhive.export import export
from rlhive.play import load_policies
from rlhive.policy_fn import LoadError, load
from rlhive.runs.run_spec import RunSpec
from tests.policy_fn.test_loading import files, refuse, rewrite, trees


def rename(folder, *names):
    """Renames the first to the second, the second to the third and so on, at once."""
    for name in names[:-1]:
        (folder / name).rename(folder / f"{name}.before")
    for name, new in itertools.pairwise(names):
        (folder / f"{name}.before").rename(folder / new)


def test_renamed_directories_of_seeds(make_run):
    run = make_run(seeds=(1, 2))
    rename(run.run_dir / "checkpoints/100", "seed_1", "seed_2", "seed_1")
    message = "checkpoints/100/seed_1: holds seed 2: the directories were renamed"
    refuse(message, run.run_dir, seed=1)
    refuse(message, *files(run, 1))
    refuse(message, run.run_dir / "checkpoints/100/seed_1")
    refuse(message, files(run, 1)[0], run.state["env_state"][1])
    with pytest.raises(LoadError, match=message):
        export(run.run_dir, run.run_dir / "bundle", seed=1)
    with pytest.raises(LoadError, match=message):
        load_policies(run.run_dir)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_renamed_directories_of_steps(make_run, seeds):
    run = make_run(seeds=seeds)
    rename(run.run_dir / "checkpoints", "100", "9000")
    refuse("checkpoints/9000: holds step 100: the directories were renamed", run.run_dir, seed=1, step=9000)


def test_a_run_copied_without_links_is_evaluated_at_its_step(make_run, tmp_path):
    run = make_run(seeds=(1, 2))
    shutil.copytree(run.run_dir, tmp_path / "copy", symlinks=False)
    policies, step, _ = load_policies(tmp_path / "copy")
    assert (list(policies), step) == ([1, 2], 100)
    assert load(tmp_path / "copy", seed=2).spec == run.spec


def describe_otherwise(path, change):
    """Changes the spec in the header of a file."""

    def rewritten(tensors, header):
        spec = json.loads(header["spec"])
        change(spec)
        header["spec"] = json.dumps(spec)

    rewrite(path, rewritten)


def lower_limits(spec):
    for part in (spec["env"], spec["network"]):
        part["action_high"] = [0.5] * 9


CHANGES = {
    "network.activation is tanh, but": lambda spec: spec["network"].update(activation="tanh"),
    "env.action_high is ": lower_limits,
    "env.action_names is ": lambda spec: spec["env"]["action_names"].reverse(),
    "env.observation_keys is ": lambda spec: spec["env"].update(
        observation_keys=["qv_robot", "qp_robot", "reach_err"]
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_descriptions_that_differ_in_anything(make_run, message):
    run = make_run()
    spec = json.loads(run.spec.to_json())
    CHANGES[message](spec)
    given = RunSpec.from_dict(spec)
    refuse("one of them was changed or damaged", *files(run), spec=given)
    describe_otherwise(files(run)[1], CHANGES[message])
    refuse(f"env_state.safetensors: says {message}", run.run_dir)


def test_the_data_set_and_the_versions_may_have_moved_on(make_run):
    run = make_run()
    given = attrs.evolve(run.spec, versions={"python": "3"})
    assert load(*files(run), spec=given).spec == given


def test_a_run_without_a_checkpoint_says_so(make_run, tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young/spec.json").write_text(make_run().spec.to_json())
    message = "young: is a run without a checkpoint yet"
    refuse(message, tmp_path / "young")
    refuse(message, tmp_path / "young", seed=1)
    with pytest.raises(LoadError, match=message):
        export(tmp_path / "young", tmp_path / "bundle")


def test_what_is_neither_path_nor_tree(make_run):
    run = make_run()
    for value, name in ((None, "NoneType"), (3, "int"), ({}, "dict")):
        refuse(f"params must be a path or a TensorDict, got {name}", value)
    message = "spec must be a RunSpec or the path of a spec.json, got dict"
    refuse(message, *trees(run), spec=run.spec.to_dict())
