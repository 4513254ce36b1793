"""`python -m rlhive.envs`: list RoboHive's environments, or try one before training on it."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlhive.command import Parser, finish
from rlhive.core.env_spec import SOLVED_STEPS
from rlhive.core.files import check_new
from rlhive.envs.names import check_name, list_names, suites
from rlhive.envs.pixels import model_cameras
from rlhive.suggest import nearest

if TYPE_CHECKING:
    import numpy as np

    from rlhive.core.env_spec import EnvSpec
    from rlhive.envs.interface import StepResult
    from rlhive.envs.robohive import RoboHive

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parse(arguments)
    if options.list is not None:
        return _list(options.list)
    check_name(options.check)
    if options.picture is not None:
        check_new(options.picture, ".png")
    _check(
        options.check, options.policy or "random", options.steps or 200, options.seed or 0, options.picture
    )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rlhive.envs", description=__doc__.partition(": ")[2], allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--list", nargs="?", const="", metavar="PATTERN", help="print the ids that contain PATTERN"
    )
    what.add_argument("--check", metavar="NAME", help="step environment NAME and print what it is and does")
    parser.add_argument("--policy", choices=("zero", "random"), help="actions of --check (random)")
    parser.add_argument("--steps", type=_integer(1), help="steps of --check (200)")
    parser.add_argument("--seed", type=_integer(0), help="seed of --check (0)")
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw the last state of --check into this new file"
    )
    options = parser.parse_args(arguments)
    for name in ("policy", "steps", "seed", "picture"):
        if options.list is not None and getattr(options, name) is not None:
            parser.error(f"--{name} needs --check NAME; --list only prints ids")
    return options


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
        return int(text)

    return parse


def _list(pattern: str) -> int:
    names = list_names(pattern)
    if not names:
        close = nearest(
            pattern, sorted({word.lower() for name in list_names() for word in _WORD.findall(name)})
        )
        hint = (
            f"did you mean {' or '.join(close)}?" if close else "--list without a pattern prints all of them"
        )
        sys.stderr.write(f"rlhive.envs: no environment of RoboHive contains {pattern!r}: {hint}\n")
        return 1
    suite_of = {name: suite for suite, members in suites().items() for name in members}
    sys.stdout.writelines(f"{suite_of[name]:<14}{name}\n" for name in names)
    return 0


def _check(name: str, policy: str, steps: int, seed: int, picture: str | None) -> None:
    import numpy as np

    from rlhive.envs.render import choose_backend
    from rlhive.envs.robohive import RoboHive

    if picture is not None:
        # Must run before mujoco is imported; if no backend works, `_draw` says so.
        with contextlib.suppress(RuntimeError, ValueError):
            choose_backend()
    generator = np.random.default_rng(seed)
    scale = 1.0 if policy == "random" else 0.0
    with contextlib.closing(RoboHive(name)) as env:
        sys.stdout.write(_describe(env.spec))
        sys.stdout.write(f"cameras: {', '.join(model_cameras(name)) or 'none with a name'}\n")
        low, high = env.spec.action_low, env.spec.action_high
        actions = scale * generator.uniform(low, high, (steps, env.spec.action_dim))
        start = time.perf_counter()
        results = _roll_out(env, actions.astype(np.float32), seed)
        rate = steps / (time.perf_counter() - start)
        sys.stdout.write(f"{steps} steps with the {policy} policy, seed {seed}: {rate:.0f} steps/s\n")
        sys.stdout.write(_summarise(results))
        if picture is not None:
            sys.stdout.write(_draw(env, picture))


def _describe(spec: EnvSpec) -> str:
    parts = zip(spec.observation_keys, spec.observation_slices, strict=True)
    lines = [f"{spec.name}: {spec.dt:g} s per step, {spec.max_episode_steps} steps per episode"]
    lines += [f"observation: float32 [{spec.observation_dim}]"]
    lines += [f"  {key:<24}[{start}:{stop}]" for key, (start, stop) in parts]
    if spec.pixels is not None:
        lines += [f"pixels: uint8 {list(spec.pixels.shape)} from {', '.join(spec.pixels.cameras)}"]
    lines += [f"action: float32 [{spec.action_dim}]"]
    bounds = zip(spec.action_names, spec.action_low, spec.action_high, strict=True)
    lines += [f"  {label:<24}{low:g} .. {high:g}" for label, low, high in bounds]
    return "\n".join(lines) + "\n"


def _roll_out(env: RoboHive, actions: np.ndarray, seed: int) -> list[StepResult]:
    results = []
    env.reset(seed)
    for action in actions:
        results.append(env.step(action))
        if results[-1].terminated or results[-1].truncated:
            env.reset()
    return results


def _summarise(results: list[StepResult]) -> str:
    import numpy as np

    rewards = np.array([result.reward for result in results])
    solved = np.array([result.solved for result in results])
    ends = [row + 1 for row, result in enumerate(results) if result.terminated or result.truncated]
    episodes = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    text = f"reward: {rewards.min():.3f} .. {rewards.max():.3f}, mean {rewards.mean():.3f}; "
    often = {0: "no step", len(solved): "every step"}.get(solved.sum(), f"{solved.sum()} steps")
    text += f"solved on {often}\n"
    if not episodes:
        return text + "no episode ended: more --steps show returns and success\n"
    successes = sum(solved[episode].sum() > SOLVED_STEPS for episode in episodes)
    mean_return = np.mean([rewards[episode].sum() for episode in episodes])
    lengths = np.diff([0, *ends])
    text += (
        f"{len(episodes)} episodes: mean return {mean_return:.2f}, mean length {lengths.mean():.1f}, "
        f"{successes} successful (solved on more than {SOLVED_STEPS} steps)\n"
    )
    if short := np.count_nonzero(lengths == 1):
        text += f"{short} of them ended after 1 step: an episode that starts finished teaches nothing\n"
    return text


def _draw(env: RoboHive, path: str) -> str:
    """Writes the scene as the model's first camera sees it; returns a line with the path, or why there is none."""
    import matplotlib.image
    import numpy as np

    from rlhive.core.files import replacing
    from rlhive.envs.render import Renderer, choose_backend, rendering_errors, view_options

    model, data = env.env.sim_obsd.model.ptr, env.env.sim_obsd.data.ptr
    image = np.empty((480, 640, 3), np.uint8)
    try:
        choose_backend()
        # GLFW warns before it fails with the same reason.
        with rendering_errors(), warnings.catch_warnings(action="ignore"):
            renderer = Renderer(model, 480, 640, "full")
            renderer.prepare(model)
            renderer.draw(model, data, view_options(env.env), 0 if model.ncam else -1, image)
        with replacing(path) as beside:
            matplotlib.image.imsave(beside, image)
    except (RuntimeError, ValueError, OSError) as error:
        return f"no picture: {error}\n"
    return f"picture: {path}\n"


if __name__ == "__main__":
    finish("rlhive.envs", main)
