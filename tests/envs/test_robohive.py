import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from rlhive.envs import RoboHive, env_spec, list_names, make
from rlhive.envs.importing import quiet
from rlhive.envs.names import max_episode_steps, suites
from rlhive.envs.pixels import model_cameras, own_pixels

# One environment of each suite, the kitchen's appliances and the three myo suites counted apart.
SUITE_ENVS = (
    "FrankaReachRandom-v0",
    "rpFrankaRobotiqPoseRandom-v0",
    "door-v1",
    "TrifingerReachRandom-v0",
    "FK1_LightOnRandom-v4",
    "franka_micro_open-v3",
    "DKittyWalkRandom-v0",
    "myoHandPoseRandom-v0",
    "myoChallengeBaodingP1-v1",
    "MyoHandAirplaneFly-v0",
)
# What a reset has to undo: moved targets, an observed last action, an opponent's velocity, tired muscles.
FORGETFUL_ENVS = (
    "FrankaReachRandom-v0",
    "baoding-v1",
    "DKittyWalkRandom-v0",
    "myoChallengeChaseTagP2-v0",
    "myoFatiElbowPose1D6MRandom-v0",
)


def reference_env(name, seed):
    """RoboHive's own environment with gymnasium's wrappers; the one generator of env and robot seeded in place."""
    with quiet():
        import robohive  # noqa: F401

        env = gymnasium.make(name, seed=0, disable_env_checker=True)
    env.unwrapped.np_random.bit_generator.state = np.random.PCG64(seed).state
    return env


def first(result):
    return result[0] if isinstance(result, tuple) else result


def simulator_state(env):
    data = env.sim.data
    return np.concatenate(
        [[data.time], data.qpos, data.qvel, data.act, data.ctrl, env.sim.model.site_pos.ravel()]
    )


@pytest.fixture(scope="module", params=SUITE_ENVS)
def of_a_suite(request):
    """One of `SUITE_ENVS`, for all tests that reset it first: to build one takes longer than most of them."""
    env = RoboHive(request.param)
    yield env
    env.close()


def assert_equals_reference(env, steps):
    reference = reference_env(env.spec.name, 5)
    wanted = first(reference.reset())
    assert np.array_equal(env.reset(5), wanted.astype(np.float32))
    generator = np.random.default_rng(1)
    for _ in range(steps):
        action = generator.uniform(-1.2, 1.2, env.spec.action_dim).astype(np.float32)
        result = env.step(action)
        wanted, reward, terminated, truncated, info = reference.step(action)
        assert result.observation.dtype == np.float32
        assert np.array_equal(result.observation, wanted.astype(np.float32))
        assert result[1:4] == (float(reward), terminated, truncated)
        assert result[4:] == (bool(info["solved"]), float(info["rwd_sparse"]))
        assert np.array_equal(simulator_state(env.env), simulator_state(reference.unwrapped))
        if terminated or truncated:
            assert np.array_equal(env.reset(), first(reference.reset()).astype(np.float32))
    model = env.env.sim.model.ptr
    assert model_cameras(env.spec.name) == tuple(
        filter(None, (model.camera(index).name for index in range(model.ncam)))
    )


def test_rollout_is_robohives_own_bit_for_bit(of_a_suite):
    assert_equals_reference(of_a_suite, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_names() if own_pixels(name) is None])
def test_long_rollout_is_robohives_own_bit_for_bit(name):
    env = RoboHive(name)
    assert_equals_reference(env, 300)
    env.close()  # which frees a hundred megabytes of the reference, too


def step_that_raises(error):
    def step(substeps=1):
        raise error

    return step


def test_ctrl_c_ends_a_step(of_a_suite, monkeypatch):
    of_a_suite.reset(0)
    monkeypatch.setattr(of_a_suite.env.sim.sim, "step", step_that_raises(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        of_a_suite.step(np.zeros(of_a_suite.spec.action_dim, np.float32))


def test_step_that_fails_resets_the_simulator_as_robohive_does(monkeypatch, capsys):
    env, reference = RoboHive("FrankaReachRandom-v0", seed=5), reference_env("FrankaReachRandom-v0", 5)
    env.reset(), reference.reset()
    action = np.ones(env.spec.action_dim, np.float32)
    env.step(action), reference.step(action)
    with monkeypatch.context() as patched:
        for bare in (env.env, reference.unwrapped):
            patched.setattr(bare.sim.sim, "step", step_that_raises(RuntimeError("diverged")))
        patched.setattr("robohive.utils.prompt_utils.VERBOSE_MODE", 2)  # warnings, too
        assert np.array_equal(env.step(action).observation, reference.step(action)[0].astype(np.float32))
    assert capsys.readouterr().out.count("Issuing a reset") == 2
    assert np.array_equal(simulator_state(env.env), simulator_state(reference.unwrapped))
    assert np.array_equal(env.step(action).observation, reference.step(action)[0].astype(np.float32))


def test_observation_is_get_obs():
    env = RoboHive("FrankaReachRandom-v0", seed=1)
    assert np.array_equal(env.reset(), env.env.get_obs().astype(np.float32))
    assert np.array_equal(env.step(np.ones(9, np.float32)).observation, env.env.get_obs().astype(np.float32))


def rollout(env, seed, steps=8):
    rows = [env.reset(seed)]
    generator = np.random.default_rng(0)
    for _ in range(steps):
        result = env.step(generator.uniform(-1, 1, env.spec.action_dim).astype(np.float32))
        rows.append(np.append(result.observation, [result.reward, result.solved, result.rwd_sparse]))
    rows.append(env.reset())
    return np.concatenate(rows)


@pytest.mark.parametrize("name", FORGETFUL_ENVS)
def test_seed_fully_determines_what_follows(name):
    used, fresh = RoboHive(name), RoboHive(name)
    before = rollout(used, 3)
    rollout(used, 4)
    assert np.array_equal(rollout(used, 3), before)
    assert np.array_equal(rollout(fresh, 3), before)


def test_seed_of_the_constructor_is_the_seed_of_the_first_reset():
    name = "FrankaReachRandom-v0"
    assert np.array_equal(RoboHive(name, seed=3).reset(), RoboHive(name).reset(3))
    assert not np.array_equal(RoboHive(name).reset(), RoboHive(name).reset(3))


def test_global_numpy_generator_is_left_alone():
    env = RoboHive("myoChallengeChaseTagP2-v0")
    np.random.seed(1)
    wanted = np.random.random()
    np.random.seed(1)
    env.reset(2)
    assert np.random.random() == wanted


@pytest.mark.parametrize("name", SUITE_ENVS)
def test_torchrl_specs_hold(name):
    check_env_specs(make(name, seed=0), check_dtype=True)


def test_torchrl_rollout_has_the_keys_and_the_time_limit():
    env = make("FrankaReachRandom-v0", seed=1)
    first_rollout = env.rollout(60)
    assert first_rollout.shape == (50,)
    following = first_rollout["next"]
    assert following["truncated"][-1] and following["done"][-1] and not following["terminated"].any()
    assert following["reward"].shape == following["solved"].shape == following["rwd_sparse"].shape == (50, 1)
    assert (env.action_spec.space.low == -1).all() and (env.action_spec.space.high == 1).all()
    env.set_seed(1)
    actions = iter(first_rollout["action"])
    again = env.rollout(60, policy=lambda td: td.set("action", next(actions)))
    assert torch.equal(again["next", "observation"], following["observation"])


def test_spec_names_the_parts_of_the_observation():
    spec = env_spec("FrankaReachRandom-v0")
    assert spec.observation_keys == ("qp_robot", "qv_robot", "reach_err")
    assert spec.observation_slices == ((0, 9), (9, 18), (18, 21))
    assert (spec.observation_dim, spec.action_dim, spec.max_episode_steps) == (21, 9, 50)
    assert spec.action_names[:2] == ("panda0_joint1", "panda0_joint2")
    assert spec.dt == pytest.approx(0.08)


def test_action_that_is_not_finite_is_refused_before_the_step():
    env = RoboHive("FrankaReachRandom-v0", seed=0)
    env.reset()
    before = simulator_state(env.env)
    with pytest.raises(ValueError, match=r"FrankaReachRandom-v0: the action must be finite"):
        env.step(np.full(9, np.nan, np.float32))
    assert np.array_equal(simulator_state(env.env), before)


def test_names_are_those_that_robohive_registers():
    with quiet():
        import robohive
    assert sorted(name for names in suites().values() for name in names) == robohive.robohive_env_suite


def test_episodes_are_as_long_as_robohive_registers_them():
    with quiet():
        import robohive  # noqa: F401
    assert all(
        steps == gymnasium.spec(name).max_episode_steps
        for names in suites().values()
        for name, steps in names.items()
    )
    assert max_episode_steps("door-v1") == 200
    assert max_episode_steps("FrankaReachRandom_vrrl50-v0") == 50


def test_list_names_filters():
    assert list_names("FRANKAreachf") == ["FrankaReachFixed-v0"]
    assert "FrankaReachRandom_vr3m18-v0" in list_names("frankareach")
    assert len(list_names()) == 521
    assert list_names("no such thing") == []


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("FrankaReachRandm-v0", "FrankaReachRandom-v0"),
        ("door", "door-v1"),
        ("dkittywalkrandom-v0", "DKittyWalkRandom-v0"),
    ],
)
def test_unknown_name_gets_the_nearest(typo, meant):
    with pytest.raises(ValueError, match=meant) as caught:
        make(typo)
    assert "\n" not in str(caught.value)


def test_building_and_stepping_prints_nothing():
    code = (
        "from rlhive.envs import RoboHive; import numpy as np\n"
        "env = RoboHive('FrankaReachRandom-v0', seed=0); env.reset(); env.step(np.zeros(9, np.float32))\n"
        "env.reset(1); env.close(); print(np.array([0.123456789]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[0.12345679]\n"
    assert result.stderr == ""
