"""Training on recorded episodes: the command, its seeds, its refusals, and all that reads such runs."""

import json
import logging
import math
import re
import shutil

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS, step_key
from rlhive.config import ConfigError, config_text, load_config
from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import load_dataset
from rlhive.data.record import record
from rlhive.data.source import check_fits, describe
from rlhive.data.trace import trace_file, write_trial
from rlhive.envs import env_spec
from rlhive.evaluate import evaluate
from rlhive.export import export
from rlhive.policy_fn import load
from rlhive.policy_fn.onnx_policy import load_onnx
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.runs.run_files import STEP_NAMES
from rlhive.runs.run_spec import Origin
from rlhive.train import run as command
from rlhive.training import loop, online
from rlhive.training.init_from import start_from, warn_of_discount
from rlhive.training.merge import seeds_to_add
from rlhive.training.run import open_run
from rlhive.training.session import add_seeds
from rlhive.training.start import open_dataset
from tests.training.loop_runs import rows

ENVIRONMENT = "FrankaReachRandom-v0"
PARTS = "qp_robot[9], qv_robot[9], reach_err[3]"
SMALL = [
    "TOTAL_STEPS=12",
    "train.num_workers=0",
    "train.loggers=()",
    "train.batch_size=32",
    "train.evaluate_every=100",
    "train.evaluation_episodes=1",
    "train.log_every=4",
]
QUICK = ("bc_mixture", "td3_bc")
FILES = ["bc_deterministic", "bc_gaussian", "bc_tanh_gaussian", "bc_mixture", "iql", "td3_bc"]


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory):
    """A cache of data sets of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhive.data.cache.cache_dir", lambda: tmp_path_factory.getbasetemp() / "cache")
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Two episodes of random actions, to be read only."""
    path = tmp_path_factory.mktemp("demo") / "demo.h5"
    record(ENVIRONMENT, "random", 2, path)
    return path


def bindings(data, name, *more):
    network = "bc_network" if name.startswith("bc") else f"{name}_network"
    return [f"DATASET='{data}'", f"{network}.hidden_sizes=(16,)", *SMALL, *more]


def configure(data, name, *more):
    return load_config([f"{name}.gin"], bindings(data, name, *more))


def train(data, run_dir, name, *more, resume=False):
    """Trains, and returns the run as the loop leaves it."""
    run_dir.mkdir(exist_ok=True)
    with open_run(configure(data, name, *more), run_dir, resume=resume) as run:
        assert loop.train(run)
    return run


def trial(observation_dim=21, action_dim=9, steps=4):
    actions = np.zeros((steps + 1, action_dim))
    actions[-1] = np.nan
    values = {"rewards": np.zeros(steps + 1), "done": np.zeros(steps + 1, bool)}
    return {"observations": np.ones((steps + 1, observation_dim)), "actions": actions, **values}


def write_trials(path, *trials, environment=ENVIRONMENT):
    with trace_file(path, environment) as file:
        for number, values in enumerate(trials):
            write_trial(file, f"Trial{number}", values)
    return path


def test_what_steps_count_is_asked_of_the_table_alone(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["bc"])
    keys = {name: step_key(name) for name in ALGORITHMS}
    assert keys == dict.fromkeys(("bc", "iql", "td3_bc", "mine"), "gradient_updates") | {
        "sac": "environment_steps"
    }
    assert {STEP_NAMES[key] for key in keys.values()} == {"gradient updates", "environment steps"}


def test_the_command_leaves_a_whole_run(demo, tmp_path, capsys):
    run_dir = tmp_path / "run"
    given = bindings(demo, "bc_gaussian", "NUM_SEEDS=2")
    assert command(["bc_gaussian.gin"], given, str(run_dir), resume=False) == 0
    said = capsys.readouterr().err
    assert f"data set {demo}: 2 trials, 100 steps" in said
    assert "12/12 steps (100%)" in said and f"done; see {run_dir}/report.html" in said
    assert {path.name for path in run_dir.iterdir()} == {
        "config.gin", "operative_config.gin", "spec.json", "metrics.csv", "metrics_over_seeds.csv", "curves.png",
        "checkpoints", "usage.json", "report.html", "evaluations.npz", ".lock",
    }  # fmt: skip
    source = json.loads((run_dir / "spec.json").read_text())["dataset"]
    assert source == {
        "path": str(demo),
        "sha256": load_dataset(demo).spec.sha256,
        "trials": 2,
        "steps": 100,
        "left_out": [],
    }
    assert json.loads((run_dir / "usage.json").read_text())["gradient_updates"] == 12
    report = (run_dir / "report.html").read_text()
    assert source["sha256"] in report and "gradient updates" in report
    assert "environment steps" not in report


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_every_head_is_evaluated_loaded_and_exported(name, demo, tmp_path):
    run = train(demo, tmp_path / "run", name)
    assert run.step == 12 and run.state["step"].tolist() == [12]
    report = evaluate(tmp_path / "run", 1, 1, stochastic=True)
    assert report["environment"] == ENVIRONMENT and report["step"] == 12
    policy = load(tmp_path / "run")
    assert policy.spec == run.spec
    observation = load_dataset(demo).transitions["observation"][:7].numpy()
    assert np.abs(policy(observation)).max() <= 1.0
    export(tmp_path / "run", tmp_path / "bundle", onnx=True)
    bundle, onnx = load(tmp_path / "bundle"), load_onnx(tmp_path / "bundle")
    np.testing.assert_array_equal(bundle(observation), policy(observation))
    np.testing.assert_allclose(onnx(observation), policy(observation), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["iql", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bc_mixture", "td3_bc"))]
)
def test_a_seed_is_the_same_alone_and_among_others_and_resumed(name, demo, tmp_path):
    alone = train(demo, tmp_path / "alone", name, "SEED=3")
    train(demo, tmp_path / "both", name, "SEEDS=(11, 3)", "TOTAL_STEPS=5")
    both = train(demo, tmp_path / "both", name, "SEEDS=(11, 3)", resume=True)
    assert bool((both.state[1:] == alone.state).all())
    assert not bool((both.state[:1]["params"] == alone.state["params"]).all())
    # Where a run ends it is evaluated.
    later = [row for row in rows(tmp_path / "both", 3) if row["step"] != "5"]
    assert later == rows(tmp_path / "alone", 3)
    checkpoint = load_checkpoint(tmp_path / "both", [11, 3])
    assert bool((checkpoint.state == both.state).all())
    assert list(checkpoint.state["target_params"].keys()) == list(ALGORITHMS[both.spec.algorithm].target_keys)


@pytest.mark.slow
def test_seeds_can_be_added(demo, tmp_path):
    train(demo, tmp_path, "bc_gaussian", "SEED=1")
    config = configure(demo, "bc_gaussian", "SEEDS=(1, 2)")
    assert seeds_to_add(tmp_path, config) == (2,)
    (tmp_path / "config.gin").write_text(config_text())
    (tmp_path / "usage.json").write_text('{"seconds": 1.0}')
    assert add_seeds(config, tmp_path)
    together = train(demo, tmp_path.parent / "together", "bc_gaussian", "SEEDS=(1, 2)")
    assert bool((load_checkpoint(tmp_path, [1, 2]).state == together.state).all())


def test_the_normaliser_is_that_of_the_data(demo, tmp_path):
    run = train(demo, tmp_path, "td3_bc", "NUM_SEEDS=2")
    expected = load_dataset(demo).normalizer()
    assert bool((run.state["env_state", "observation"] == torch.stack([expected] * 2)).all())
    assert expected["count"] == 100


@pytest.mark.slow
def test_a_seed_that_is_not_finite_stops_and_the_others_go_on(demo, tmp_path):
    tmp_path.joinpath("run").mkdir()
    config = configure(demo, "iql", "SEEDS=(4, 5, 6)")
    with open_run(config, tmp_path / "run") as run:
        real = run.dataset

        class Broken:
            count = 0

            def sample(self, generators, batch_size, chunk_size):
                self.count += 1
                batch = real.sample(generators, batch_size, chunk_size)
                if self.count == 3:
                    batch["next", "reward"][1] = math.inf
                return batch

        run.dataset = Broken()
        assert loop.train(run)
    saved = load_checkpoint(tmp_path / "run", [4, 5, 6])
    assert saved.progress[1] == {"stopped_at": 2, "reason": "not finite"}
    assert saved.progress[0].keys() == saved.progress[2].keys() == {"metrics"}
    assert saved.state["step"].tolist() == [12, 2, 12]
    whole = train(demo, tmp_path / "whole", "iql", "SEEDS=(4, 6)")
    assert bool((saved.state[[0, 2]] == whole.state).all())


@pytest.mark.parametrize(
    ("name", "binding"),
    [
        ("bc_gaussian", "train.init_random_steps=5"),
        ("iql", "train.exploration=@gaussian"),
        ("bc_gaussian", "train.tau=0.1"),
    ],
)
def test_a_binding_that_changes_nothing_offline_is_refused(demo, name, binding):
    setting = binding.split("=")[0]
    with pytest.raises(
        ConfigError, match=f"nothing reads {setting} without an algorithm .*: add that, or leave"
    ):
        configure(demo, name, binding)
    assert configure(demo, "iql", "train.tau=0.1").tau == 0.1


def test_a_seed_whose_evaluation_is_not_finite_leaves_the_others(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "plot_curves", lambda *_: None)
    still = TensorDict({"finite": torch.ones(2, dtype=torch.bool)}, [2])
    with open_run(configure(demo, "bc_gaussian", "SEEDS=(1, 2)"), tmp_path) as run:
        run.learner = run.learner._replace(train_step=lambda state, batch, noise: (state, still))
        recv = run.evaluation_envs.recv

        def broken():
            step = recv()
            for part in (step["observation"], step["next", "observation"], step["next", "reward"]):
                part[0] = math.nan
            return step

        run.evaluation_envs.recv = broken
        assert loop.train(run)
    assert "seed 1: the observation is not finite at step 12" in capsys.readouterr().err
    assert run.seeds == (2,) and load_checkpoint(tmp_path, [1, 2]).step == 12


def test_damaged_trials_are_named(demo, tmp_path):
    cut = {**trial(), "rewards": np.full(5, np.nan)}
    path = write_trials(tmp_path / "cut.h5", trial(), cut)
    message = (
        "Trial1/rewards: row 0 has a number that is not finite.*; .*in training with train.skip_damaged=True"
    )
    with pytest.raises(LoadError, match=message):
        train(path, tmp_path / "run", "bc_gaussian")
    (tmp_path / "run2").mkdir()
    run = train(path, tmp_path / "run2", "bc_gaussian", "train.skip_damaged=True")
    assert run.spec.dataset.trials == 1 and "Trial1/rewards" in run.spec.dataset.left_out[0]
    assert "1 damaged trials left out" in run.spec.dataset.describe()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("bc_gaussian", ["DATASET=None"], "bc learns from recorded episodes: name them"),
        ("iql", ["DATASET='nothing.h5'"], "nothing.h5: there is no such file"),
        (
            "iql",
            ["ENV_NAME='door-v1'"],
            "ENV_NAME is 'door-v1', but .* was recorded in 'FrankaReachRandom-v0'",
        ),
        ("iql", ["NUM_ENVS=2"], "steps no environment to learn"),
        ("iql", ["train.updates_per_step=2.0"], "steps no environment to learn"),
        ("sac", ["train.dataset='{demo}'"], "give both train.dataset and train.demonstrations, or neither"),
    ],
)
def test_wrong_configurations_are_refused(name, more, message, demo):
    given = [] if name == "sac" else [f"DATASET='{demo}'"]
    with pytest.raises(ConfigError, match=message) as caught:
        load_config([f"{name}.gin"], given + [binding.format(demo=demo) for binding in more])
    assert "\n" not in str(caught.value)


def test_a_data_set_that_names_no_environment_needs_one(tmp_path):
    path = write_trials(tmp_path / "data.h5", trial(), environment=None)
    with pytest.raises(ConfigError, match="does not say which environment it is of: set ENV_NAME"):
        configure(path, "bc_gaussian")
    assert configure(path, "bc_gaussian", f"ENV_NAME='{ENVIRONMENT}'").env_name == ENVIRONMENT


def test_a_data_set_of_an_unknown_environment_is_named(tmp_path):
    path = write_trials(tmp_path / "data.h5", trial(), environment="FrankaReech-v0")
    message = f"{path} names the environment it was recorded in: 'FrankaReech-v0' is not an environment"
    with pytest.raises(ConfigError, match=message):
        configure(path, "bc_gaussian")


def test_a_data_set_of_other_images_is_refused_before_anything_is_opened(tmp_path):
    images = PixelSpec(("top_cam",), 32, 32, "full")
    with trace_file(tmp_path / "data.h5", "FrankaReachRandom_v2d-v0", images) as file:
        write_trial(file, "Trial0", trial())
    own = ["images.cameras=('top_cam',)", "images.image_size=32", "images.quality='fast'"]
    with pytest.raises(
        ConfigError, match="has full images 32x32 of top_cam; fast images 32x32 of top_cam were requested"
    ):
        configure(tmp_path / "data.h5", "bc_gaussian", *own, "train.encoder=@flat")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w", "w/data/metadata.json: cannot be read as Minari's metadata"),
        ("", "the path of the data set is empty: name a Trace"),
    ],
)
def test_a_directory_without_data_and_an_empty_name_are_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    with pytest.raises(ConfigError, match=message):
        configure(name, "bc_gaussian")


def test_a_data_set_that_does_not_fit_is_refused_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.training.start.load_dataset", lambda *_, **__: pytest.fail("was built"))
    path = write_trials(tmp_path / "other.h5", trial(20, 7))
    message = "does not fit FrankaReachRandom-v0: it has 20 observations per step, not 21 and 7 actions per step, not 9"
    with pytest.raises(LoadError, match=message):
        train(path, tmp_path / "run", "bc_gaussian")


def test_a_roboset_of_other_columns_is_refused(tmp_path):
    columns = {"qp_arm": 9, "qv_arm": 9, "tau_arm": 3}
    for widths in ([7, 7, 7], [9, 9, 3]):
        values = {f"data/{name}": np.zeros((5, width)) for name, width in zip(columns, widths, strict=True)}
        values |= {"data/ctrl_arm": np.zeros((5, 7)), "data/ctrl_ee": np.zeros((5, 2))}
        path = write_trials(tmp_path / "set.h5", {**values, "data/time": np.arange(5.0)}, environment=None)
        has = ", ".join(f"{name}[{width}]" for name, width in zip(columns, widths, strict=True))
        message = f"does not fit {ENVIRONMENT}: it has {has}, the environment observes {PARTS}"
        with pytest.raises(LoadError, match=re.escape(message)):
            train(path, tmp_path / "run", "bc_gaussian", f"ENV_NAME='{ENVIRONMENT}'")
    env = attrs.evolve(
        env_spec(ENVIRONMENT),
        observation_keys=("qp_robot", "qv_robot"),
        observation_slices=((0, 9), (9, 21)),
    )
    values = {
        "data/qv_arm": np.zeros((5, 10)),
        "data/qp_ee": np.zeros((5, 2)),
        "data/qp_arm": np.zeros((5, 7)),
    }
    values |= {
        "data/qv_ee": np.zeros((5, 2)),
        "data/ctrl_arm": np.zeros((5, 7)),
        "data/ctrl_ee": np.zeros((5, 2)),
    }
    path = write_trials(tmp_path / "fits.h5", {**values, "data/time": np.arange(5.0)}, environment=None)
    source = describe(path)
    assert source.columns == {"qp_arm": 7, "qp_ee": 2, "qv_arm": 10, "qv_ee": 2}
    check_fits(path, source, env, needs_rewards=False)


def test_what_the_numbers_of_a_file_are_taken_as_is_said(tmp_path, caplog):
    env = env_spec(ENVIRONMENT)
    for name, environment in (("tells.h5", ENVIRONMENT), ("silent.h5", None)):
        path = write_trials(tmp_path / name, trial(), environment=environment)
        check_fits(path, describe(path), env, needs_rewards=True)
    assert caplog.messages == [
        f"{tmp_path / 'silent.h5'}: does not say what its 21 observed numbers are; assuming {PARTS} of {ENVIRONMENT}"
    ]


def test_another_time_step_than_the_environments_is_warned_of(tmp_path, caplog):
    env = env_spec(ENVIRONMENT)
    for period, warned in ((0.08, False), (0.083, False), (1 / 30, True), (0.16, True), (-0.08, True)):
        caplog.clear()
        path = write_trials(tmp_path / "data.h5", {**trial(), "time": period * np.arange(5.0)})
        check_fits(path, describe(path), env, needs_rewards=True)
        expected = (
            f"{path}: its steps last {period:.3g} s, those of {ENVIRONMENT} 0.08 s: the same action has another effect "
            "there"
        )
        assert caplog.messages == ([expected] if warned else [])


def test_the_time_step_of_a_long_clock_in_half_precision_is_not_warned_of(tmp_path, caplog):
    env, times = attrs.evolve(env_spec(ENVIRONMENT), dt=0.04), 0.04 * np.arange(5001)
    for clock, warned in ((times.astype(np.float16), 0), (1.25 * times.astype(np.float32), 1)):
        caplog.clear()
        path = write_trials(tmp_path / "data.h5", {**trial(steps=5000), "time": clock})
        check_fits(path, describe(path), env, needs_rewards=True)
        assert len(caplog.messages) == warned


def test_actions_beyond_the_limits_are_warned_of_once(tmp_path, caplog):
    env, other = env_spec(ENVIRONMENT), trial()
    other["actions"][0], other["actions"][2, 3] = 1.001, -5.0
    path = write_trials(tmp_path / "data.h5", trial(), other)
    with caplog.at_level(logging.WARNING, logger="rlhive"):
        open_dataset(configure(path, "bc_gaussian"), env, None)
        open_dataset(configure(write_trials(tmp_path / "within.h5", trial()), "bc_gaussian"), env, None)
    assert caplog.messages == [
        f"{path}: 12.5% of its actions are beyond the limits of {ENVIRONMENT}, the furthest -5 of "
        f"{env.action_names[3]}, which goes from -1 to 1: scale the actions, or learn a policy that is at its limits"
    ]


def test_no_rewards_are_enough_for_behaviour_cloning_alone(tmp_path):
    without = {key: value for key, value in trial().items() if key != "rewards"}
    path = write_trials(tmp_path / "data.h5", without, without)
    assert train(path, tmp_path / "bc", "bc_gaussian").step == 12
    for name in ("iql", "td3_bc"):
        with pytest.raises(LoadError, match="has no rewards, which this algorithm needs; bc does not"):
            train(path, tmp_path / name, name)


def test_a_run_is_not_resumed_on_other_data(demo, tmp_path):
    train(demo, tmp_path / "run", "bc_gaussian", "TOTAL_STEPS=2")
    other = write_trials(tmp_path / "other.h5", trial())
    with pytest.raises(LoadError, match="cannot be resumed with another dataset: sha256 is"):
        train(other, tmp_path / "run", "bc_gaussian", resume=True)
    moved = tmp_path / "moved.h5"
    moved.write_bytes(demo.read_bytes())
    assert train(moved, tmp_path / "run", "bc_gaussian", resume=True).step == 12


def test_a_refusal_of_the_command_is_one_line(tmp_path, monkeypatch, demo):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="ENV_NAME is 'door-v1'"):
        command(["bc_gaussian.gin"], [f"DATASET='{demo}'", "ENV_NAME='door-v1'"], None, resume=False)
    for unused in ("replay.n_step=3", "replay.prioritized=True"):  # which would change nothing
        with pytest.raises(ConfigError, match=r"data set needs replay\.n_step=1 and replay\.prioritized"):
            command(["iql.gin"], [f"DATASET='{demo}'", unused], None, resume=False)
    assert not list(tmp_path.iterdir())


ONLINE = [
    "TOTAL_STEPS=46",
    "train.num_workers=0",
    "train.loggers=()",
    "train.batch_size=32",
    "train.evaluate_every=100",
    "train.evaluation_episodes=1",
    "sac_network.hidden_sizes=(16,)",
    "replay.capacity=1000",
]


def go_on(demo, origin, run_dir, *more):
    """SAC from another run."""
    run_dir.mkdir(exist_ok=True)
    config = load_config(["iql_to_sac.gin"], [f"DATASET='{demo}'", f"INIT_FROM='{origin}'", *ONLINE, *more])
    with open_run(config, run_dir) as run:
        first = run.state
        assert loop.train(run)
    return first, run


@pytest.fixture(scope="module")
def iql(demo, tmp_path_factory):
    """A run of IQL of the seeds 1 and 2, to be read only."""
    return train(demo, tmp_path_factory.mktemp("iql"), "iql", "SEEDS=(1, 2)")


def test_sac_begins_with_iql_and_keeps_the_demonstrations(demo, iql, tmp_path):
    first, run = go_on(demo, iql.run_dir, tmp_path / "both", "SEEDS=(2, 1)")
    for key in ("actor", "critic"):
        assert bool((first["params", key] == iql.state["params", key][[1, 0]]).all())
    assert bool((first["target_params", "critic"] == first["params", "critic"]).all())
    assert bool((first["env_state"] == iql.state["env_state"][[1, 0]]).all())
    assert run.state["step"].tolist() == [14, 14]
    assert run.state["env_state", "observation", "count"].tolist() == [146, 146]
    assert run.spec.dataset == iql.spec.dataset
    alone = go_on(demo, iql.run_dir, tmp_path / "alone", "SEEDS=(1,)")[1]
    assert bool((run.state[1:] == alone.state).all())


def begin(demo, origin, run_dir, *more, joins=None):
    """The state that SAC from another run begins with, and its spec."""
    run_dir.mkdir()
    config = load_config(["iql_to_sac.gin"], [f"DATASET='{demo}'", f"INIT_FROM='{origin}'", *ONLINE, *more])
    with open_run(config, run_dir, joins=joins) as run:
        return run.state, run.spec


def test_added_seeds_begin_with_the_checkpoint_that_the_others_began_with(demo, iql, tmp_path):
    origin = tmp_path / "iql"
    shutil.copytree(iql.run_dir, origin, symlinks=True)
    both, spec = begin(demo, origin, tmp_path / "both", "SEEDS=(1, 2)")
    assert spec.origin == Origin(str(origin), iql.spec.run_id, 12)
    train(demo, origin, "iql", "SEEDS=(1, 2)", "TOTAL_STEPS=14", "train.compile=False", resume=True)
    added, joined = begin(demo, origin, tmp_path / "added", "SEEDS=(2,)", joins=spec)
    assert bool((added == both[1:]).all()) and joined == spec
    other = attrs.evolve(spec.origin, run_id="0" * 64)
    with pytest.raises(
        LoadError, match=r"iql: is another run than the one that .*iql was when the run began"
    ):
        start_from(added, origin, other, spec, (2,))


def test_a_minibatch_has_the_wanted_share_of_demonstrations(demo, iql, tmp_path):
    _, run = go_on(demo, iql.run_dir, tmp_path, "train.demonstrations=0.25")
    recorded = load_dataset(demo).transitions["observation"]
    batch = online._minibatch(run)
    found = (batch["observation"][0].unsqueeze(1) == recorded).all(-1).any(1)
    assert batch.shape == (1, 32) and found.tolist() == [False] * 24 + [True] * 8


def test_critics_of_another_discount_are_warned_of(iql, tmp_path, caplog):
    origin = shutil.copytree(iql.run_dir, tmp_path / "iql", symlinks=True)
    here = "GAMMA = 0.99\nsac_loss.gamma = %GAMMA\n"
    for gamma, warned in ((None, False), (0.99, False), (0.95, True)):
        if gamma:
            (origin / "checkpoints" / "config.gin").write_text(f"GAMMA = {gamma}\niql_loss.gamma = %GAMMA\n")
        caplog.clear()
        warn_of_discount(origin, "sac", here)
        said = "iql_loss.gamma=0.95, and this run has sac_loss.gamma=0.99"
        assert (said in caplog.text) == warned and bool(caplog.records) == warned


@pytest.mark.slow
def test_sac_begins_with_the_actor_of_behaviour_cloning_alone(demo, tmp_path):
    cloned = train(demo, tmp_path / "bc", "bc_tanh_gaussian", "SEED=5")
    first, _ = go_on(demo, tmp_path / "bc", tmp_path / "sac", "SEED=7", "TOTAL_STEPS=2")
    assert bool((first["params", "actor"] == cloned.state["params", "actor"]).all())
    assert load(tmp_path / "sac").spec.algorithm == "sac"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["sac_network.hidden_sizes=(8, 16)"], "hidden_sizes is \\(16,\\) there and \\(8, 16\\) here"),
        (["sac_network.num_critics=3"], "num_critics is 2 there and 3 here"),
        (["SEEDS=(2, 3)"], "has the seeds \\[1, 2\\], of which \\[3\\] cannot begin"),
    ],
)
def test_what_sac_cannot_begin_with_is_refused(more, message, demo, iql, tmp_path):
    with pytest.raises(LoadError, match=message):
        go_on(demo, iql.run_dir, tmp_path, *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("replay.n_step=3", "learning from a data set needs replay"),
        ("replay.prioritized=True", "learning from a data set needs replay"),
        ("train.demonstrations=0.0", "demonstrations"),
        ("DATASET=None", "demonstrations"),
    ],
)
def test_demonstrations_that_could_not_be_drawn_are_refused(more, message, demo):
    with pytest.raises(ConfigError, match=message):
        load_config(["iql_to_sac.gin"], [f"DATASET='{demo}'", more])
