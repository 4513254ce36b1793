"""Episodes with images: drawn for real, encoded once, and then the same vector as online."""

import json

import attrs
import h5py
import numpy as np
import pytest
import torch

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec, camera_key
from rlhive.data import features, load_dataset
from rlhive.data.convert import convert
from rlhive.data.episode import Selection
from rlhive.data.formats import episodes
from rlhive.data.playback import replay
from rlhive.data.record import play
from rlhive.data.trace import SEEN, read_pixels, trace_file, write_trial
from rlhive.envs.robohive import RoboHive
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.encoders import Flat, cnn
from rlhive.policy_fn.r3m import R3M
from rlhive.training.encoded_env import EncodedEnv
from tests.data.demo_files import demo_rows, write_roboset

VISUAL, STATE = "FrankaReachRandom_v2d-v0", "FrankaReachRandom-v0"
IMAGES = PixelSpec(("top_cam", "left_cam"), 64, 64, "fast")
SEEDS, STEPS = (11, 12), 5


def built(cache):
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def actions_of(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (STEPS, 9)).astype(np.float32)


def write_episodes(path, env):
    with trace_file(path, env.spec.name, env.spec.pixels) as file:
        for number, seed in enumerate(SEEDS):
            actions = iter(actions_of(seed))
            values = play(
                env, env.reset(seed), lambda seen, rest, actions=actions: (next(actions), None), STEPS
            )
            write_trial(file, f"Trial{number}", values)
    env.close()
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two short episodes with fast images of two cameras."""
    return write_episodes(tmp_path_factory.mktemp("drawn") / "seen.h5", RoboHive(VISUAL, pixels=IMAGES))


@pytest.fixture(scope="module")
def encoder():
    return R3M("r3m18", "random")


def test_features_are_the_encoders_and_are_made_once(drawn, encoder, cache, monkeypatch):
    dataset = load_dataset(drawn, encoder=encoder)
    spec = dataset.spec
    assert (spec.environment, spec.pixels, spec.encoder) == (VISUAL, IMAGES, encoder.to_dict())
    params = encoder.init(torch.Generator())
    first = 0
    with h5py.File(drawn) as file:
        for trial in file.values():
            images = np.stack([trial[SEEN + camera_key(name, IMAGES)][:] for name in IMAGES.cameras], 1)
            expected = torch.cat(
                [torch.from_numpy(trial["observations"][:]), encoder.apply(params, torch.from_numpy(images))],
                1,
            )
            batch = dataset.take(torch.arange(first, first + STEPS))
            assert torch.equal(batch["observation"], expected[:-1])
            assert torch.equal(batch["next", "observation"], expected[1:])
            first += STEPS
    assert spec.observation_dim == expected.shape[1] and spec.observation_dim > encoder.feature_dim(IMAGES)
    assert dataset.normalizer()["loc"].shape == (spec.observation_dim,)
    monkeypatch.setattr(features, "stack_frames", None)
    monkeypatch.setattr(R3M, "apply", None)  # the second time nothing is encoded
    assert torch.equal(
        load_dataset(drawn, encoder=encoder).transitions["observation"], dataset.transitions["observation"]
    )
    assert len(built(cache)) == 1


def test_offline_is_what_online_training_sees(drawn, encoder):
    dataset = load_dataset(drawn, encoder=encoder, pixels=IMAGES)
    with VectorEnv(VISUAL, seeds=(0,), num_envs=len(SEEDS), num_workers=0, pixels=IMAGES) as envs:
        online = EncodedEnv(envs, encoder, encoder.init(torch.Generator()))
        seen = online.reset([list(SEEDS)])["observation"]
        for step in range(STEPS):
            rows = dataset.take(torch.tensor([[step, STEPS + step]]))
            assert torch.equal(rows["observation"], seen)
            online.send(torch.from_numpy(np.stack([actions_of(seed)[step] for seed in SEEDS])[None]))
            result = online.recv()
            assert torch.equal(rows["next", "observation"], result["next", "observation"])
            assert torch.equal(rows["next", "reward"], result["next", "reward"])
            seen = result["observation"]


def test_state_episodes_played_again_give_the_same_images(drawn, tmp_path):
    path = write_episodes(tmp_path / "state.h5", RoboHive(STATE))
    drifts = replay(path, VISUAL, tmp_path / "again.h5", pixels=IMAGES)
    assert all(drift.largest.max() == 0.0 for drift in drifts)
    assert read_pixels(tmp_path / "again.h5") == IMAGES and read_pixels(path) is None
    ours, theirs = (load_dataset(of, encoder=Flat()) for of in (drawn, tmp_path / "again.h5"))
    for key in ("observation", "action"):
        assert torch.equal(ours.transitions[key], theirs.transitions[key])
    drifts = replay(tmp_path / "again.h5")  # by default drawn as the file was
    assert all(drift.largest.max() == 0.0 for drift in drifts)


def test_the_proprioception_of_robohives_own_recorder(tmp_path):
    """It logs nothing but the time as the observation of an id with images."""
    import contextlib
    import io

    class Zero:
        def get_action(self, observation):
            return np.zeros(9), {"evaluation": np.zeros(9)}

    env = RoboHive(VISUAL, pixels=IMAGES)
    del env.env.get_env_infos  # the whole of it, as RoboHive itself would log
    with contextlib.redirect_stdout(io.StringIO()):
        trace = env.env.examine_policy_new(Zero(), horizon=4, num_episodes=1)
        trace.save(str(tmp_path / "theirs.h5"), verify_length=True, f_res=np.float64)
    last = env._vector(None)
    env.close()
    dataset = load_dataset(tmp_path / "theirs.h5", observation_keys=env.spec.observation_keys)
    assert load_dataset(tmp_path / "theirs.h5").spec.observation_dim == 2
    assert np.array_equal(dataset.transitions["next", "observation"][-1], last)
    with pytest.raises(LoadError, match=r"Trial0: has no env_infos/obs_dict/nothing, but "):
        load_dataset(tmp_path / "theirs.h5", observation_keys=("qp_robot", "nothing"))


def test_another_encoder_other_weights_and_other_cameras_make_other_data_sets(drawn, cache):
    one = PixelSpec(("left_cam",), 64, 64, "fast")
    widths = [
        load_dataset(drawn, **what).spec.observation_dim
        for what in (
            {},
            {"encoder": Flat()},
            {"encoder": Flat(), "pixels": attrs.evolve(IMAGES, cameras=IMAGES.cameras[::-1])},
            {"encoder": Flat(), "pixels": one},
            {"encoder": R3M("r3m18", "random"), "pixels": one},
            {"encoder": R3M("rrl18", "random"), "pixels": one},
        )
    ]
    own = widths[0]
    assert widths == [own, *(own + 64 * 64 * 3 * cameras for cameras in (2, 2, 1)), own + 512, own + 512]
    assert len(built(cache)) == 6


def test_images_for_an_encoder_that_learns(drawn, cache):
    learning = cnn(IMAGES, layers=((8, 8, 4),), dim=5)
    dataset = load_dataset(drawn, pixels=IMAGES, encoder=learning)
    assert dataset.spec.encoder is None and dataset.spec.pixels == IMAGES
    batch = dataset.sample([torch.Generator().manual_seed(0)], 4)
    assert batch["pixels"].shape == (1, 4, 2, 64, 64, 3) and batch["pixels"].dtype == torch.uint8
    with h5py.File(drawn) as file:
        top = file["Trial1"][SEEN + camera_key("top_cam", IMAGES)][:]
    rows = dataset.take(torch.arange(STEPS, 2 * STEPS))
    assert np.array_equal(rows["pixels"][:, 0], top[:-1]) and np.array_equal(
        rows["next", "pixels"][:, 0], top[1:]
    )
    assert (
        len({load_dataset(drawn, pixels=IMAGES).spec.sha256, dataset.spec.sha256}) == len(built(cache)) == 1
    )
    several = attrs.evolve(IMAGES, frames=3)
    flat = load_dataset(drawn, pixels=several, encoder=Flat()).spec
    assert flat.observation_dim == rows["observation"].shape[1] + Flat().feature_dim(several)
    stacked = load_dataset(drawn, pixels=several).take(torch.arange(STEPS))
    assert stacked["pixels"].shape == (STEPS, 2, 64, 64, 9)
    assert torch.equal(stacked["pixels"][3, ..., :3], stacked["pixels"][1, ..., -3:])


def test_frames_are_stacked_with_the_newest_last():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1, 1).repeat(3, -1)
    stacked = features.stack_frames(images, 3)[:, 0, 0, 0, ::3]
    assert stacked.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert features.stack_frames(images, 1) is images


def test_a_build_that_fails_half_way_leaves_nothing(drawn, cache, monkeypatch):
    calls = []

    def fails_at_last(self, params, images):
        calls.append(len(images))
        if len(calls) == len(SEEDS):
            raise KeyboardInterrupt
        return images.flatten(1).float()

    monkeypatch.setattr(Flat, "apply", fails_at_last)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(drawn, encoder=Flat())
    assert calls == [STEPS + 1] * 2 and not built(cache)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"quality": "full"}, r"has fast images 64x64 of top_cam, left_cam; full images 64x64 .* requested"),
        ({"height": 32}, r"fast images 32x64 of top_cam, left_cam were requested"),
        ({"cameras": ("right_cam",)}, r"fast images 64x64 of right_cam were requested"),
        ({"depth": True}, r"depth images are not read into a data set; leave out depth=True"),
    ],
)
def test_other_images_than_were_recorded_are_refused(drawn, cache, wanted, message):
    with pytest.raises(LoadError, match=message):
        load_dataset(drawn, pixels=attrs.evolve(IMAGES, **wanted), encoder=Flat())
    assert not cache.exists()


def test_images_recorded_with_depth_are_read_without_it(drawn, tmp_path):
    path = tmp_path / "deep.h5"
    path.write_bytes(drawn.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["pixels"] = json.dumps(attrs.evolve(IMAGES, depth=True).to_dict())
    dataset = load_dataset(path, encoder=Flat())
    assert dataset.spec.pixels == IMAGES
    assert load_dataset(path, encoder=Flat(), pixels=dataset.spec.pixels).spec == dataset.spec


SMALL = PixelSpec(("top_cam",), 4, 4)
KEY = SEEN + camera_key("top_cam", SMALL)


def write_small(path, images):
    rows = demo_rows(0, 3)
    values = {key: rows[key] for key in ("time", "observations", "actions", "rewards", "done")}
    with trace_file(path, None) as file:
        write_trial(file, "Trial0", values | {KEY: images})
    return path


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 4, 3), np.float32), r"top_cam:4x4:2d: must be uint8 \[4, 4, 4, 3\], is float32"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"must be uint8 \[4, 4, 4, 3\], is uint8 \[3, 4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"is uint8 \[4, 4, 4\]"),
        (np.zeros((4, 5, 4, 3), np.uint8), r"is uint8 \[4, 5, 4, 3\]"),
    ],
)
def test_damaged_images_name_file_trial_and_key(tmp_path, images, message):
    path = write_small(tmp_path / "small.h5", images)
    with pytest.raises(LoadError, match=message) as raised:
        load_dataset(path, pixels=SMALL)
    assert str(raised.value).startswith(f"{path}: Trial0/{KEY}")
    assert len(load_dataset(path)) == 3  # without images there is nothing wrong


def test_images_with_holes_or_missing(tmp_path):
    path = write_small(tmp_path / "small.h5", np.ones((4, 4, 4, 3), np.uint8))
    with pytest.raises(LoadError, match=r"does not say which images it has; name them with pixels=PixelSpec"):
        load_dataset(path, encoder=Flat())
    assert load_dataset(path, encoder=Flat(), pixels=SMALL).spec.observation_dim == 6 + 48
    with pytest.raises(
        LoadError,
        match=r"does not say the quality of its images, so it is assumed to be full, .* fast images",
    ):
        load_dataset(path, pixels=attrs.evolve(SMALL, quality="fast"))
    other = attrs.evolve(SMALL, cameras=("left_cam",))
    with pytest.raises(LoadError, match=rf"Trial0: has no images .*rgb:left_cam:4x4:2d, but {KEY}"):
        load_dataset(path, pixels=other)
    with h5py.File(path, "r+") as file:
        del file["Trial0"][KEY]
        file["Trial0"].create_dataset(KEY, (4, 4, 4, 3), np.uint8, chunks=(2, 4, 4, 3))[:2] = 1
    with pytest.raises(LoadError, match="2d: 1 of its parts were never written"):
        load_dataset(path, pixels=SMALL)
    with h5py.File(path, "r+") as file:
        file.attrs["pixels"] = "{"
    with pytest.raises(LoadError, match="its attribute 'pixels' is damaged"):
        load_dataset(path, pixels=SMALL)


def test_the_images_of_a_roboset(tmp_path):
    path = write_roboset(tmp_path / "set.h5", trials=2, steps=3, size=6)
    images = PixelSpec(("left_cam",), 6, 6)
    dataset = load_dataset(path, pixels=images, encoder=Flat())
    with h5py.File(path) as file:
        left = file["Trial1/data/rgb_left"][:]
    features_of = dataset.take(torch.arange(3, 6))["next", "observation"][:, -6 * 6 * 3 :]
    assert np.array_equal(features_of, (left[1:].reshape(3, -1).astype(np.float32) / 255))
    assert torch.equal(
        load_dataset(path, pixels=attrs.evolve(images, cameras=("left",))).transitions["pixels"][:, 0, 0, 0],
        torch.from_numpy(np.concatenate([file_rows(path, number) for number in (0, 1)])),
    )
    with pytest.raises(LoadError, match="a RoboSet has no obs_dict to take qp from"):
        load_dataset(path, observation_keys=("qp",))


def file_rows(path, number):
    with h5py.File(path) as file:
        return file[f"Trial{number}/data/rgb_left"][:-1, 0, 0]


def test_images_stay_behind_on_the_way_to_minari(drawn, tmp_path):
    convert(drawn, tmp_path / "reach-v0", "minari")
    with pytest.raises(LoadError, match="is a Minari data set; images and parts"):
        list(episodes(tmp_path / "reach-v0", "minari", Selection(IMAGES)))
