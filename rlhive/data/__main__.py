"""Records, inspects, converts, replays and joins recorded episodes.

    python -m rlhive.data record --env=FrankaReachRandom-v0 --policy=runs/reach --episodes=100 demo.h5
    python -m rlhive.data inspect demo.h5
    python -m rlhive.data convert --to=minari demo.h5 reach-v0
    python -m rlhive.data replay --env=FrankaReachRandom-v0 demo.h5
    python -m rlhive.data join runs/first/trace.h5 runs/second/trace.h5 both.h5

`python -m rlhive.data record --help` lists the flags of one task.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from rlhive.command import load_torch_on_one_thread, require_flags, start
from rlhive.core.files import check_new
from rlhive.suggest import suggest

if TYPE_CHECKING:
    from rlhive.core.pixel_spec import PixelSpec

FLAGS = flags.FLAGS


class Task(NamedTuple):
    """A task of the command.

    Attributes:
        arguments: what its arguments are; "..." follows one that may be repeated.
        define_flags: defines its flags.
        run: `run(*arguments) -> lines for stdout`.
    """

    arguments: str
    define_flags: Callable[[], None]
    run: Callable[..., str]


def _image_flags() -> None:
    flags.DEFINE_list("cameras", [], "Names of the cameras to draw; by default those of the environment.")
    flags.DEFINE_integer("image_size", None, "Height and width of the images in pixels.", lower_bound=1)
    flags.DEFINE_enum("quality", None, ["full", "fast"], "How images are drawn; see docs/pixels.md.")


def _chosen_images(env_name: str) -> PixelSpec | None:
    """The images that the flags ask for, None if they do not mention any; refuses an unknown environment."""
    from rlhive.envs.names import check_name
    from rlhive.envs.pixels import choose_pixels, own_pixels

    check_name(env_name)
    if not FLAGS.cameras and FLAGS.image_size is None and FLAGS.quality is None:
        return None
    if own_pixels(env_name) is None and not (FLAGS.cameras and FLAGS.image_size):
        raise ValueError(f"{env_name} has no images of its own: give both --cameras and --image_size")
    return choose_pixels(
        env_name,
        from_pixels=True,
        cameras=FLAGS.cameras or None,
        image_size=FLAGS.image_size,
        quality=FLAGS.quality or "full",
    )


def _record_flags() -> None:
    _image_flags()
    flags.DEFINE_string("env", None, "Environment id of RoboHive.")
    flags.DEFINE_string("policy", None, "Directory of a run or bundle, or 'random' or 'zero'.")
    flags.DEFINE_integer("episodes", 10, "Number of episodes.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the episodes and of sampled actions.", lower_bound=0)
    flags.DEFINE_bool("stochastic", False, "Sample actions from the policy instead of taking its mode.")


def _record(out: str) -> str:
    require_flags("env", "policy")
    pixels = _chosen_images(FLAGS.env)
    check_new(out, ".h5")
    if FLAGS.policy not in ("random", "zero") and not Path(FLAGS.policy).is_dir():
        raise ValueError(f"--policy={FLAGS.policy}: must be random, zero, or a directory that exists")
    load_torch_on_one_thread()
    from rlhive.data.record import record

    with contextlib.redirect_stdout(sys.stderr):
        record(
            FLAGS.env,
            FLAGS.policy,
            FLAGS.episodes,
            out,
            seed=FLAGS.seed,
            stochastic=FLAGS.stochastic,
            pixels=pixels,
        )
    return f"{out}: {FLAGS.episodes} episodes of {FLAGS.env}"


def _inspect_flags() -> None:
    flags.DEFINE_string("picture", None, "Draw frames of the cameras into this new .png file.")


def _inspect(path: str) -> str:
    if FLAGS.picture is not None:
        check_new(FLAGS.picture, ".png")
    from rlhive.data.inspection import draw_frames, format_trials, inspect, write_picture

    if FLAGS.picture is None:
        return format_trials(path, *inspect(path))
    labels, picture = draw_frames(path)
    text = format_trials(path, *inspect(path))
    write_picture(FLAGS.picture, picture)
    rows = "\n".join(f"  {label}" for label in labels)
    return f"{text}\n\n{FLAGS.picture}, row by row:\n{rows}"


def _convert_flags() -> None:
    flags.DEFINE_enum("to", None, ["trace", "roboset", "minari"], "The new format.")
    flags.DEFINE_bool("skip_damaged", False, "Leave damaged trials out instead of refusing the file.")


def _convert(source: str, out: str) -> str:
    require_flags("to")
    check_new(out, "" if FLAGS.to == "minari" else ".h5")
    load_torch_on_one_thread()
    from rlhive.data.convert import convert

    count, damaged = convert(source, out, FLAGS.to, skip_damaged=FLAGS.skip_damaged)
    left_out = "".join(f"\n  left out: {source}: {reason}" for reason in damaged)
    total = f" of {count + len(damaged)}, {len(damaged)} damaged ones left out" if damaged else ""
    return f"{out}: {count} trials{total}{left_out}"


def _no_flags() -> None:
    """Defines nothing, for a task without flags."""


def _join(*paths: str) -> str:
    *sources, out = paths
    check_new(out, ".h5")
    from rlhive.data.join import join

    return f"{out}: {join(sources, out)} trials of {len(sources)} files"


def _replay_flags() -> None:
    _image_flags()
    flags.DEFINE_string("env", None, "Environment id of RoboHive; by default the one that the file names.")
    flags.DEFINE_string("out", None, "Write the replayed episodes, with images, into this new .h5 file.")


def _replay(path: str) -> str:
    if FLAGS.out is not None:
        check_new(FLAGS.out, ".h5")
    from rlhive.data.playback import format_drifts, played_in, replay

    pixels = _chosen_images(played_in(path, FLAGS.env))
    load_torch_on_one_thread()
    with contextlib.redirect_stdout(sys.stderr):
        return format_drifts(replay(path, FLAGS.env, FLAGS.out, pixels=pixels))


TASKS = {
    "record": Task("OUT.h5", _record_flags, _record),
    "inspect": Task("FILE", _inspect_flags, _inspect),
    "convert": Task("FILE OUT", _convert_flags, _convert),
    "replay": Task("FILE", _replay_flags, _replay),
    "join": Task("FILE FILE... OUT.h5", _no_flags, _join),
}


def define_flags() -> None:
    """Defines the flags of the task that the command line names."""
    if task := TASKS.get(sys.argv[1] if len(sys.argv) > 1 else ""):
        task.define_flags()


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    if len(argv) < 2:
        raise ValueError(f"say what to do, one of {', '.join(TASKS)}; see --help")
    name, *arguments = argv[1:]
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}: {suggest(name, list(TASKS))}")
    task = TASKS[name]
    expected, may_be_more = len(task.arguments.split()), "..." in task.arguments
    if len(arguments) < expected or (len(arguments) > expected and not may_be_more):
        raise ValueError(f"{name} takes {task.arguments}, got {' '.join(arguments) or 'nothing'}; see --help")
    sys.stdout.write(task.run(*arguments) + "\n")
    return 0


if __name__ == "__main__":
    start("rlhive.data", main, define_flags, sys.argv)
