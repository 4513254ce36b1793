import json
import os
import resource
import shutil

import pytest
import torch
from safetensors import safe_open
from tensordict import TensorDict

from rlhive.core.errors import LoadError
from rlhive.core.tree_file import named_leaves, read_tree
from rlhive.runs.checkpoint import (
    load_checkpoint,
    recover_checkpoints,
    replace_checkpoint,
    save_checkpoint,
)
from rlhive.runs.run_files import checkpoint_dir, seed_dirs
from rlhive.runs.run_spec import RunSpec, new_run_spec
from tests.conftest import make_rollout
from tests.helpers import rewrite

PARTS = ("params", "env_state", "train_state")


def save(run, step, **changes):
    arguments = {
        "seeds": run.seeds,
        "rollout": make_rollout(run.seeds, run.state),
        "generators": run.generators,
        "progress": [{}] * len(run.seeds),
        **changes,
    }
    return save_checkpoint(run.run_dir, step, run.state, run.spec, **arguments)


def assert_equal_trees(one, other):
    one, other = named_leaves(one), named_leaves(other)
    assert list(one) == list(other)  # the order counts: sums over the leaves depend on it
    for name, leaf in one.items():
        assert leaf.dtype == other[name].dtype
        assert torch.equal(leaf, other[name]), name


@pytest.mark.parametrize("seeds", [(3,), (5, 1, 10)])
def test_restored_state_equals_saved_one_bit_for_bit(make_run, seeds):
    run = make_run(seeds=seeds)
    checkpoint = load_checkpoint(run.run_dir, seeds)
    assert_equal_trees(checkpoint.state, run.state)
    assert checkpoint.state["opt_state", "count"].dtype == torch.int64
    assert checkpoint.state.batch_size == run.state.batch_size
    assert checkpoint.spec == run.spec
    assert checkpoint.rollout["episodes", "number"].tolist() == list(seeds)
    assert (checkpoint.step, checkpoint.progress) == (100, [{"episodes": 7}] * len(seeds))
    assert_equal_trees(checkpoint.rollout["normalizer"], run.state["env_state", "observation"].double())


@pytest.mark.parametrize("opt_state", [{}, {"none": {}, "deeper": {"none": {}, "one": torch.zeros(2, 3)}}])
def test_restored_state_has_the_subtrees_without_leaves_too(make_run, opt_state):
    run = make_run(seeds=(1, 2))
    run.state["opt_state"] = TensorDict(opt_state, batch_size=[2])
    save(run, 200)
    restored = load_checkpoint(run.run_dir, (1, 2)).state["opt_state"]
    assert restored.batch_size == (2,)
    assert set(restored.keys(include_nested=True)) == set(run.state["opt_state"].keys(include_nested=True))


def test_restored_generators_continue_their_streams(make_run):
    run = make_run(seeds=(1, 2))
    restored = load_checkpoint(run.run_dir, (1, 2)).generators["replay"]
    for generator, state in zip(run.generators["replay"], restored, strict=True):
        fresh = torch.Generator()
        fresh.set_state(state)
        assert torch.equal(torch.rand(8, generator=fresh), torch.rand(8, generator=generator))


def test_layout_of_one_seed_and_of_several(make_run):
    one, several = make_run("one"), make_run("several", seeds=(1, 2))
    assert {path.name for path in (one.run_dir / "checkpoints/100").iterdir()} == {
        f"{part}.safetensors" for part in PARTS
    }
    folder = several.run_dir / "checkpoints/100"
    assert seed_dirs(folder) == {1: folder / "seed_1", 2: folder / "seed_2"}
    # A seed's folder is a checkpoint of its own.
    assert seed_dirs(folder / "seed_2") == {2: folder / "seed_2"}
    assert os.readlink(several.run_dir / "checkpoints/latest") == "100"


def test_files_of_a_seed_among_several_equal_those_of_its_own_run(make_run):
    several = make_run("several", seeds=(4, 7))
    alone = make_run("alone", seeds=(7,))
    save_checkpoint(
        alone.run_dir,
        100,
        several.state[1:],
        several.spec,
        seeds=(7,),
        rollout=make_rollout((7,), several.state[1:]),
        generators={"replay": several.generators["replay"][1:]},
        progress=[{"episodes": 7}],
    )
    for part in PARTS:
        name = f"{part}.safetensors"
        ours, our_header = read_tree(several.run_dir / "checkpoints/100/seed_7" / name)
        theirs, their_header = read_tree(alone.run_dir / "checkpoints/100" / name)
        assert our_header == their_header
        assert_equal_trees(ours, theirs)


def test_params_alone_name_algorithm_networks_and_versions(make_run):
    run = make_run()
    with safe_open(run.run_dir / "checkpoints/100/params.safetensors", "pt") as file:
        header = file.metadata()
    spec = json.loads(header["spec"])
    assert (header["format_version"], header["kind"], header["seed"], header["step"]) == (
        "1",
        "params",
        "1",
        "100",
    )
    assert header["run_id"] == spec["run_id"]
    assert (spec["algorithm"], spec["network"]["hidden_sizes"]) == ("sac", [32, 32])
    assert spec["env"]["name"] == "FrankaReachRandom-v0"
    assert spec["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "actor/layer_0/weight" in json.loads(header["keys"])


def test_latest_moves_on_and_older_ones_stay(make_run):
    run = make_run()
    save(run, 200)
    assert checkpoint_dir(run.run_dir).name == "200"
    assert checkpoint_dir(run.run_dir, 100).name == "100"


def test_saving_a_step_again_replaces_it(make_run):
    run = make_run()
    save(run, 100, progress=[{"episodes": 8}])
    assert load_checkpoint(run.run_dir, run.seeds).progress == [{"episodes": 8}]
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["100", "latest"]


def test_not_finite_state_is_not_saved_and_nothing_changes(make_run):
    run = make_run(seeds=(1, 2))
    run.state["params", "critic", "layer_1", "bias"][1, 0, 3] = float("nan")
    with pytest.raises(ValueError, match="params/critic/layer_1/bias of seed 2 is not finite"):
        save(run, 200)
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["100", "latest"]


def test_wrong_seeds_and_generators_are_refused(make_run):
    run = make_run(seeds=(1, 2))
    with pytest.raises(ValueError, match="each once"):
        save(run, 200, seeds=(1, 1))
    with pytest.raises(ValueError, match="batch size"):
        save(run, 200, seeds=(1, 2, 3))
    with pytest.raises(ValueError, match="one per seed"):
        save(run, 200, generators={"replay": run.generators["replay"][:1]})
    with pytest.raises(LoadError, match=r"holds the seeds \[1, 2\]"):
        load_checkpoint(run.run_dir, (1, 3))


@pytest.fixture
def small_disk():
    """No file of this process can grow beyond 20 kB: a real write fails in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_leaves_the_last_checkpoint(make_run, request):
    run = make_run()
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match=r"File too large: .*\.safetensors"):
        save(run, 200)
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["100", "latest"]


def test_leftovers_of_a_killed_process_are_neither_loaded_nor_kept(make_run):
    run = make_run()
    half = run.run_dir / "checkpoints/.tmp-200"
    half.mkdir()
    (half / "params.safetensors").write_bytes(b"half")
    assert load_checkpoint(run.run_dir, run.seeds).step == 100
    save(run, 300)
    assert not half.exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_process_killed_while_it_replaced_a_checkpoint_leaves_one(make_run, replaced):
    run = make_run()
    root = run.run_dir / "checkpoints"
    if replaced:
        shutil.copytree(root / "100", root / ".tmp-before-100")
    else:
        (root / "100").rename(root / ".tmp-before-100")
        with pytest.raises(LoadError, match="there is no such checkpoint"):
            load_checkpoint(run.run_dir, run.seeds)
    recover_checkpoints(run.run_dir)
    assert_equal_trees(load_checkpoint(run.run_dir, run.seeds).state, run.state)
    assert not (root / ".tmp-before-100").exists()


def test_copies_are_on_disk_before_they_take_the_place_of_a_checkpoint(make_run, monkeypatch):
    run = make_run(seeds=(1, 2))
    flushed, fsync = set(), os.fsync

    def follow(descriptor):
        flushed.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", follow)
    folders = seed_dirs(run.run_dir / "checkpoints/100")
    replace_checkpoint(run.run_dir, 100, folders)
    beside = run.run_dir.resolve() / "checkpoints/.tmp-100"
    assert flushed >= {f"{beside}/seed_{seed}/{part}.safetensors" for seed in folders for part in PARTS}
    assert load_checkpoint(run.run_dir, (1, 2)).step == 100


def test_seeds_in_directories_of_others_are_refused(make_run):
    run = make_run(seeds=(1, 2))
    folder = run.run_dir / "checkpoints/100"
    for name, other in (("seed_1", "seed_3"), ("seed_2", "seed_1"), ("seed_3", "seed_2")):
        (folder / name).rename(folder / other)
    with pytest.raises(LoadError, match="seed_1: holds seed 2: the directories were renamed"):
        load_checkpoint(run.run_dir, (1, 2))


def test_missing_checkpoint_lists_those_there(make_run, tmp_path):
    run = make_run()
    with pytest.raises(LoadError, match=r"there is no such checkpoint; complete ones are: 100$"):
        load_checkpoint(run.run_dir, run.seeds, step=200)
    with pytest.raises(LoadError, match="complete ones are: none"):
        load_checkpoint(tmp_path / "nothing", (1,))


def test_files_of_two_runs_in_one_checkpoint_are_refused(make_run):
    one, other = make_run("one"), make_run("other")
    name = "checkpoints/100/env_state.safetensors"
    (one.run_dir / name).write_bytes((other.run_dir / name).read_bytes())
    with pytest.raises(LoadError, match="different runs"):
        load_checkpoint(one.run_dir, (1,))


@pytest.mark.parametrize("progress", [{"stopped_at": 30}, {"stopped_at": None, "reason": "target met"}])
def test_a_seed_that_stopped_without_a_step_or_a_reason_is_refused(make_run, progress):
    run = make_run("run", seeds=(4,))
    save(run, 100, progress=[progress])
    with pytest.raises(LoadError, match=r"train_state.safetensors: its header has no valid 'progress', got"):
        load_checkpoint(run.run_dir, run.seeds)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("empty", [5], "'empty' of its header is no list of names"),
        ("empty", {"opt_state/none": 1}, "'empty' of its header is no list of names"),
        ("empty", ["step/x"], "names of its header do not make a tree: step is there twice"),
        ("empty", ["step"], "names of its header do not make a tree: step is there twice"),
        ("empty", ["opt_state"], "names of its header do not make a tree: opt_state is there twice"),
        ("keys", [["step"]], "'keys' of its header is no list of names"),
    ],
)
def test_names_that_make_no_tree_are_refused_in_one_line(make_run, field, value, message):
    run = make_run()
    path = run.run_dir / "checkpoints/100/train_state.safetensors"
    rewrite(path, lambda tensors, header: header.update({field: json.dumps(value)}))
    with pytest.raises(LoadError, match=f"train_state.safetensors: {message}") as caught:
        load_checkpoint(run.run_dir, run.seeds)
    assert "\n" not in str(caught.value)


def remove(subtree):
    """A change for `rewrite`: nothing of the subtree is left, neither tensors nor names."""

    def change(tensors, header):
        for name in [name for name in tensors if name.startswith(f"{subtree}/")]:
            del tensors[name]
        header["keys"] = json.dumps([name for name in json.loads(header["keys"]) if name in tensors])

    return change


@pytest.mark.parametrize(
    ("subtree", "message"),
    [
        ("target_params", "its target_params: keys do not fit: missing critic"),
        ("target_params/critic", "its target_params: keys do not fit: missing critic"),
        ("rollout", "its rollout: keys do not fit: missing episodes"),
    ],
)
def test_a_checkpoint_without_what_its_algorithm_trains_with_is_refused(make_run, subtree, message):
    run = make_run(seeds=(1, 2))
    rewrite(run.run_dir / "checkpoints/100/seed_2/train_state.safetensors", remove(subtree))
    with pytest.raises(LoadError, match=f"seed_2/train_state.safetensors, {message}"):
        load_checkpoint(run.run_dir, run.seeds)


def test_a_file_that_does_not_name_the_state_of_an_optimizer_without_leaves_is_read(make_run):
    run = make_run()
    rewrite(run.run_dir / "checkpoints/100/train_state.safetensors", remove("opt_state"))
    opt_state = load_checkpoint(run.run_dir, run.seeds).state["opt_state"]
    assert opt_state.batch_size == (1,) and not list(opt_state.keys())


def test_spec_is_json_and_back(make_run):
    spec = make_run().spec
    assert RunSpec.from_json(spec.to_json()) == spec


def test_no_two_runs_share_an_id(make_run):
    spec = make_run().spec
    assert new_run_spec("sac", spec.env, spec.network).run_id != spec.run_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "unknown format version 1"),
        ({"env": None}, "no valid description of EnvSpec"),
        ({"extra": 1}, "unexpected extra"),
        ({"run_id": "abc"}, "does not fit"),
        ({"algorithm": 3}, "unknown algorithm 3; this version of rlhive has"),
    ],
)
def test_spec_that_does_not_fit_is_refused_in_one_line(make_run, change, message):
    with pytest.raises(LoadError, match=message) as caught:
        RunSpec.from_dict({**make_run().spec.to_dict(), **change})
    assert "\n" not in str(caught.value)


def test_spec_with_missing_fields_or_a_foreign_network_is_refused(make_run):
    values = make_run().spec.to_dict()
    without = {key: value for key, value in values.items() if key != "versions"}
    with pytest.raises(LoadError, match="missing versions"):
        RunSpec.from_dict(without)
    with pytest.raises(LoadError, match="does not fit the observation"):
        RunSpec.from_dict({**values, "network": {**values["network"], "observation_dim": 22}})
    with pytest.raises(LoadError, match="is not JSON"):
        RunSpec.from_json("{")
