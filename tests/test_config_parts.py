"""Parts of a configuration: the users' own, in scopes, in one another, and what they keep after the load."""

import functools

import attrs
import pytest
import torch
from tensordict import TensorDict

import gin
from rlhive.algorithms import ALGORITHMS
from rlhive.config import ConfigError, load_config
from rlhive.core.optim import GradientTransformation, adam
from rlhive.losses_fn import make_sac_loss
from rlhive.policy_fn import exploration
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.encoders import KINDS, Flat
from tests.config_loads import SPEC, first_step, load, refusal


def test_parts_of_the_users_own_are_taken_whatever_they_are_called():
    def flat(action_low, action_high):
        return exploration.none(action_low, action_high)

    def late(k=1.0):
        return k

    gin.external_configurable(flat, "my_noise")
    gin.external_configurable(late, "late_noise")
    load("train.exploration=@my_noise", "late_noise.k=2.0")


OWN_PARTS = """
import gin
from rlhive.core.optim import GradientTransformation, adam
from rlhive.algorithms import ALGORITHMS

def decayed(rate, decay=0.5):
    return adam(rate * decay)

def make_loss(network, *, gamma=0.95):
    return ALGORITHMS["sac"].make_loss(network, gamma=gamma)

gin.external_configurable(decayed, "decayed")
configurable = gin.external_configurable(make_loss, "imported_loss")
ALGORITHMS["imported"] = ALGORITHMS["sac"]._replace(make_loss=configurable)
"""


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory):
    """A gin file that imports an optimizer and an algorithm of one's own and names them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts_of_a_test.py").write_text(OWN_PARTS)
    text = ["import own_parts_of_a_test", "include 'sac.gin'", "ALGORITHM = 'imported'"]
    text += ["train.optimizer = @decayed", "decayed.rate = 1e-3"]
    (folder / "own.gin").write_text("\n".join(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "own.gin"
        ALGORITHMS.pop("imported", None)


def test_an_algorithm_that_a_file_imports_is_taken_and_its_parts_are_set(own_parts):
    config = load_config(own_parts, "imported_loss.gamma=0.5")
    assert config.algorithm == "imported" and config.make_loss.settings == {"gamma": 0.5}


def test_parts_of_the_users_own_stay_as_they_are_whatever_is_loaded_after(own_parts):
    config = load_config(own_parts, "decayed.decay=0.25")
    load_config(own_parts)
    assert config.optimizer.settings == {"rate": 1e-3, "decay": 0.25}


def test_a_decorator_of_the_users_own_acts_in_training_too():
    @functools.wraps(adam)
    def halved(learning_rate=1e-3):
        return adam(0.5 * learning_rate)

    gin.external_configurable(halved, "halved_adam")
    config = load("train.optimizer=@halved_adam", "halved_adam.learning_rate=1.0")
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_wrong_parameter_of_the_users_own_part_gets_the_nearest_one(own_parts):
    with pytest.raises(ConfigError, match=r"decayed has no parameter 'decai': did you mean decay\?"):
        load_config(own_parts, "decayed.decai=0.25")


def test_a_binding_of_what_the_run_uses_is_taken_in_a_scope_too():
    load("replay.alpha=0.3", "replay.prioritized=True")
    load("replay.gamma=0.95", "replay.n_step=2")
    load(
        "cosine_schedule.final_fraction=0.5",
        "adam.learning_rate=@cosine_schedule()",
        "cosine_schedule.learning_rate=1e-3",
        "cosine_schedule.decay_updates=100",
    )
    load("train.optimizer=@slow/adam", "slow/adam.b1=0.5")


@pytest.mark.parametrize(
    ("bindings", "name"),
    [
        (("foo/adam.learning_rate=1e-4",), "foo/adam.learning_rate"),
        (("foo/train.tau=0.5",), "foo/train.tau"),
        (("a/b/adam.b1=0.5", "train.optimizer=@a/adam"), "a/b/adam.b1"),
    ],
)
def test_a_binding_in_a_scope_that_nothing_refers_to_is_refused(bindings, name):
    scope = name.rpartition("/")[0]
    assert f"nothing reads {name}: no reference is @{scope}/" in refusal(*bindings)


def test_a_macro_in_a_scope_is_another_macro():
    assert "nothing reads the macro 'foo/TOTAL_STEPS': did you mean" in refusal("foo/TOTAL_STEPS=5")
    assert load("foo/TOTAL_STEPS=5", "SEED=%foo/TOTAL_STEPS").seed == 5


@attrs.frozen
class Counted(ActorCritic):
    """Networks whose parameters count the updates."""

    def init(self, key):
        return super().init(key).update({"count": torch.zeros(())})


def counting_adam(learning_rate=1e-3, *, counted="count"):
    """Adam that adds 1 to a number, as docs/extending.md says."""
    inner = adam(learning_rate)

    def update(grads, opt_state, params):
        updates, opt_state = inner.update(grads, opt_state, params)
        return updates.update({counted: torch.ones_like(params[counted])}), opt_state

    return GradientTransformation(inner.init, update)


gin.external_configurable(counting_adam, "counting_adam")


def test_an_optimizer_of_ones_own_may_name_parameters_of_the_algorithm(monkeypatch):
    counted = ALGORITHMS["sac"]._replace(
        network=Counted, make_network=lambda spec: Counted(1, spec.action_low, spec.action_high)
    )
    monkeypatch.setitem(ALGORITHMS, "counted", counted)
    load("ALGORITHM='counted'", "train.optimizer=@counting_adam")
    load("train.optimizer=@counting_adam", "counting_adam.counted='log_alpha'")
    images = ["images.from_pixels=True", "images.cameras=('top_cam',)", "images.image_size=(64, 64)"]
    encoder = ("counting_adam.counted=('encoder', 'trunk', 'bias')", "train.encoder=@cnn")
    load("train.optimizer=@counting_adam", *encoder, *images)


@attrs.frozen
class DrawnFromAGenerator(ActorCritic):
    """Networks whose parameters are drawn from a generator alone, as training gives them one."""

    def init(self, key: torch.Generator):
        key.get_state()
        return super().init(key)


def test_networks_of_ones_own_may_draw_from_a_generator_alone(monkeypatch):
    drawn = ALGORITHMS["sac"]._replace(
        network=DrawnFromAGenerator,
        make_network=lambda spec: DrawnFromAGenerator(1, spec.action_low, spec.action_high),
    )
    monkeypatch.setitem(ALGORITHMS, "drawn", drawn)
    load("ALGORITHM='drawn'", "train.optimizer=@counting_adam", "counting_adam.counted='log_alpha'")


DECAY = ("cosine_schedule.learning_rate=1e-3", "cosine_schedule.decay_updates=100")


def test_an_optimizer_that_names_parameters_that_are_not_there_is_refused():
    words = refusal("train.optimizer=@counting_adam")
    assert "train.optimizer" in words and "['actor', 'critic', 'log_alpha'] of sac" in words
    assert 'key "count" not found' in words


def test_networks_are_drawn_for_optimizers_of_ones_own_alone(monkeypatch):
    """Large ones take seconds, and those of RLHive take whatever parameters there are."""
    monkeypatch.setattr(ActorCritic, "init", lambda *_: pytest.fail("drawn"))
    load()
    load("adam.max_grad_norm=1.0", "adam.learning_rate=@cosine_schedule()", *DECAY)
    with pytest.raises(pytest.fail.Exception, match="drawn"):
        load("train.optimizer=@counting_adam")


class Seen(Flat):
    """An encoder of one's own."""

    def to_dict(self):
        return {"kind": "seen"}


def test_an_encoder_of_ones_own_is_taken_where_runs_of_it_can_be_loaded(monkeypatch):
    gin.external_configurable(lambda pixels: Seen(), "seen")
    bindings = ["train.encoder=@seen", "images.from_pixels=True", "images.cameras=('top_cam',)"]
    words = refusal(*bindings, "images.image_size=(8, 8)")
    assert "no run of the encoder Seen could be loaded: enter it" in words
    assert "rlhive.policy_fn.encoders.KINDS['seen'] = Seen" in words
    monkeypatch.setitem(KINDS, "seen", Seen)
    assert type(load(*bindings, "images.image_size=(8, 8)").make_encoder()) is Seen


class WrongWidth(Seen):
    def feature_dim(self, pixels):
        return 7


class ForgetsItsSettings(Seen):
    def __eq__(self, other):
        return self is other

    __hash__ = None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WrongWidth, "WrongWidth.apply gives [2, 192] of 2 images, but feature_dim says [2, 7]"),
        (ForgetsItsSettings, "ForgetsItsSettings.from_dict(to_dict()), by way of JSON, must equal"),
    ],
)
def test_an_encoder_of_ones_own_is_what_it_says(monkeypatch, kind, words):
    monkeypatch.setitem(KINDS, "seen", kind)
    gin.external_configurable(lambda pixels: kind(), "seen", module=f"a_test.{kind.__name__}")
    images = ["images.from_pixels=True", "images.cameras=('top_cam',)", "images.image_size=(8, 8)"]
    assert words in refusal(f"train.encoder=@{kind.__name__}.seen", *images)


def test_bindings_in_a_scope_count_where_a_reference_names_it(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("train.optimizer = @a/b/adam\na/adam.learning_rate = 0.5\na/b/adam.b1 = 0.0\n")
    opt, params = load_config(["sac.gin", path]).optimizer(), TensorDict({"x": torch.zeros(1)})
    assert opt.update(params + 1.0, opt.init(params), params)[0]["x"].item() == pytest.approx(-0.5)
    with pytest.raises(ConfigError, match=r"a/b/adam\.b1 must be float"):
        load_config(["sac.gin", path], ["a/b/adam.b1='x'"])
    path.write_text("foo/adam.learning_rate = 0.5\n")
    with pytest.raises(ConfigError, match=r"nothing reads foo/adam\.learning_rate"):
        load_config(["sac.gin", path])


def given_by(base=adam):
    """An optimizer of one's own that another part makes."""
    return base()


def given_inside():
    return gin.get_configurable("given_by")()


gin.external_configurable(given_by, "given_by")
gin.external_configurable(given_inside, "given_inside")


@pytest.mark.parametrize(
    "bindings",
    [
        ("train.optimizer=@foo/adam", "foo/adam.learning_rate=0.5"),
        ("OPT=@foo/adam", "train.optimizer=%OPT", "foo/adam.learning_rate=0.5"),
        ("train.optimizer=@given_by", "given_by.base=@adam", "adam.learning_rate=0.5"),
        ("train.optimizer=@foo/given_by", "given_by.base=@adam", "foo/adam.learning_rate=0.5"),
        ("train.optimizer=@foo/given_by", "given_by.base=@foo/adam", "foo/adam.learning_rate=0.5"),
    ],
)
def test_parts_in_scopes_and_in_parts_stay_as_they_are_whatever_is_loaded_after(bindings):
    config = load(*bindings)
    load()
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_part_in_a_scope_is_called_in_it():
    config = load(
        "train.optimizer=@foo/given_inside", "foo/adam.learning_rate=0.5", "foo/given_by.base=@adam"
    )
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_part_that_is_made_of_itself_is_refused():
    assert "leads back to itself" in refusal("train.optimizer=@given_by", "given_by.base=@given_by")


def test_a_configuration_stays_as_it_is_whatever_is_loaded_or_cleared_after():
    small = ["sac_network.hidden_sizes=(8, 8)", "replay.capacity=5000", "sac_loss.gamma=0.5"]
    small += ["adam.learning_rate=@cosine_schedule()", "cosine_schedule.learning_rate=1e-2"]
    small += ["cosine_schedule.decay_updates=10", "gaussian.sigma_init=0.25", "gaussian.sigma_end=0.25"]
    images = ["ENV_NAME='FrankaReachRandom_v2d-v0'", "images.cameras=('top_cam',)", "r3m.weights='random'"]
    config = load(*small, *images)
    load()
    gin.clear_config()
    assert config.make_network(SPEC).hidden_sizes == (8, 8)
    assert config.make_replay(num_seeds=1, num_envs=1, device="cpu").capacity == 5000
    assert config.pixels.cameras == ("top_cam",)
    assert config.make_encoder().weights == "random"
    explore, zero = config.exploration((-1.0,), (1.0,)), torch.zeros(1, 1)
    noise = TensorDict({"normal": torch.ones(1, 1)}, [1])
    assert explore.apply(explore.init((1,)), zero, noise, 0, zero.bool())[0].item() == 0.25
    opt, params = config.optimizer(), TensorDict({"x": zero})
    assert opt.update(params + 1.0, opt.init(params), params)[0]["x"].item() == pytest.approx(-1e-2)


def test_discounts_of_loss_and_replay_are_one():
    words = refusal("replay.n_step=3", "sac_loss.gamma=0.5")
    assert "sac_loss.gamma is 0.5 but replay.gamma" in words and "set GAMMA alone" in words
    load("replay.n_step=3", "GAMMA=0.5")
    load("sac_loss.gamma=0.5")  # one step has no sum


def test_an_algorithm_of_ones_own_is_taken_though_gin_knows_none_of_its_parts(monkeypatch):
    mine = ALGORITHMS["sac"]._replace()
    monkeypatch.setitem(ALGORITHMS, "mine", mine)
    config = load("ALGORITHM='mine'", "replay.n_step=3")
    assert (config.make_network.factory, config.make_loss.factory) == (mine.make_network, mine.make_loss)


def test_parts_that_an_algorithm_of_ones_own_inherits_have_the_settings_of_the_files(monkeypatch):
    def wide(spec, *, feature_dim=0):
        return ActorCritic(spec.observation_dim, spec.action_low, spec.action_high, hidden_sizes=(9,))

    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["sac"]._replace(make_network=wide))
    config = load("ALGORITHM='mine'", "GAMMA=0.5", "sac_loss.reward_scale=2.0")
    assert config.make_loss.settings == {"gamma": 0.5, "reward_scale": 2.0, "target_entropy": None}
    assert config.make_network is wide
    assert "no part of this run is sac_network" in refusal("ALGORITHM='mine'", "sac_network.init_alpha=0.1")


def discounted_loss(network, *, gamma=0.9, scale: float = 1.0):
    return make_sac_loss(network, gamma=gamma, reward_scale=scale)


def test_the_discount_of_a_loss_of_ones_own_is_that_of_the_replay(monkeypatch):
    named = gin.external_configurable(discounted_loss, "own_loss", module="a_test")
    for make_loss in (named, discounted_loss):
        monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"]._replace(make_loss=make_loss))
        words = refusal("ALGORITHM='own'", "replay.n_step=3")
        assert (
            "own_loss.gamma is 0.9 but replay.gamma, for the sums of replay.n_step rewards, is 0.95" in words
        )
        load("ALGORITHM='own'", "replay.n_step=3", "GAMMA=0.9")
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"]._replace(make_loss=named))
    load("ALGORITHM='own'", "replay.n_step=3", "own_loss.gamma=0.95")


def own_noise(action_low, action_high, *, k=1.0):
    return exploration.none(action_low, action_high)


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        (("a_test.own_loss.network=1",), "network of the loss"),
        (("train.exploration=@own_noise", "own_noise.action_low=(0.0,)"), "action_low of the exploration"),
        (
            ("train.exploration=@foo/own_noise", "foo/own_noise.action_high=(0.0,)"),
            "action_high of the exploration",
        ),
    ],
)
def test_what_a_run_gives_parts_of_ones_own_is_no_setting(monkeypatch, bindings, words):
    own = gin.external_configurable(discounted_loss, "own_loss", module="a_test")
    gin.external_configurable(own_noise, "own_noise", module="a_test")
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["sac"]._replace(make_loss=own))
    assert f"{words} cannot be set: the run itself gives it" in refusal("ALGORITHM='own'", *bindings)


def test_a_loss_of_ones_own_may_be_made_of_that_of_another_algorithm(monkeypatch):
    @functools.wraps(make_sac_loss)
    def dressed(network, **settings):
        return make_sac_loss(network, **settings)

    monkeypatch.setitem(ALGORITHMS, "dressed", ALGORITHMS["sac"]._replace(make_loss=dressed))
    assert load("ALGORITHM='dressed'").make_loss is dressed
    named = gin.external_configurable(make_sac_loss, "named_loss", module="a_test")
    monkeypatch.setitem(ALGORITHMS, "named", ALGORITHMS["sac"]._replace(make_loss=named))
    assert load("ALGORITHM='named'", "named_loss.gamma=0.5").make_loss.settings == {"gamma": 0.5}


@pytest.mark.parametrize(
    "binding",
    [
        "replay.num_seeds=7",
        "replay.total_steps=5",
        "replay.device='cuda'",
        "gaussian.action_low=(0.0,)",
        "sac_network.spec=None",
        "sac_loss.network=None",
        "r3m.pixels=None",
    ],
)
def test_what_a_run_gives_its_parts_itself_is_no_setting(binding):
    name = binding.split("=")[0]
    assert f"{name} cannot be set" in refusal(binding)


def test_a_copy_of_another_algorithm_takes_its_parts_too(monkeypatch):
    config, mine = load(), ALGORITHMS["sac"]._replace(make_loss=lambda network: make_sac_loss(network))
    monkeypatch.setitem(ALGORITHMS, "mine", mine)
    with pytest.raises(ValueError, match="algorithm is 'mine', but make_loss is that of sac: load"):
        attrs.evolve(config, algorithm="mine")
    assert attrs.evolve(config, algorithm="mine", make_loss=mine.make_loss).make_loss is mine.make_loss
    with pytest.raises(ValueError, match="algorithm is 'bc', but make_network is that of sac"):
        attrs.evolve(config, algorithm="bc")
