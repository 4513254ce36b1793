"""Runs an exported policy on a RoboHive robot, or on its simulation.

    python -m rlhive.deploy --bundle=policies/reach --out=runs/first                      # simulation, in real time
    python -m rlhive.deploy --bundle=policies/reach --out=runs/real --hardware=franka.config --max_delta=0.1
    python -m rlhive.deploy --recover=runs/real                                           # after a crash

Ctrl-C stops safely. The exit code says why it stopped; docs/deployment.md lists them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from absl import flags

from rlhive.command import load_torch_on_one_thread, refuse_arguments, require_flags, start
from rlhive.command_line import command_line
from rlhive.own_modules import define_import_flag, import_own_modules

if TYPE_CHECKING:
    from rlhive.deploy.reporting import Report
    from rlhive.deploy.settings import Settings

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's flags."""
    from rlhive.deploy.settings import Settings

    flags.DEFINE_string("bundle", None, "Directory written by rlhive.export.")
    flags.DEFINE_string(
        "out", None, "Directory for journal, trace, report and picture; must not have a journal yet."
    )
    flags.DEFINE_string(
        "env", None, "RoboHive's id of the environment; by default the one that the policy was trained on."
    )
    flags.DEFINE_string(
        "hardware",
        None,
        "RoboHive's robot configuration; without it the robot is simulated. Connecting may move the robot, even with "
        "--dry_run: a Franka arm goes home.",
    )
    flags.DEFINE_integer(
        "max_steps",
        None,
        "Stop after this many steps; by default the episode length of training.",
        lower_bound=1,
    )
    flags.DEFINE_float("max_seconds", None, "Stop after this many seconds.", lower_bound=0.0)
    flags.DEFINE_float("max_delta", None, "Largest change of an action per step; required for hardware.")
    flags.DEFINE_list(
        "safe_action",
        None,
        "Where to go after a fault, comma-separated; by default the robot holds the last action.",
    )
    flags.DEFINE_float(
        "staleness", None, "Maximum age of a measurement in seconds; by default two control periods."
    )
    flags.DEFINE_float(
        "frozen",
        attrs.fields(Settings).frozen.default,
        "Seconds for which all values of a device, or an image, may stay exactly the same.",
    )
    flags.DEFINE_bool(
        "dry_run", False, "Compute and log actions, but send none; connecting hardware may still move it."
    )
    define_import_flag()
    flags.DEFINE_integer("seed", 0, "Seed of the simulated episode; not with --hardware.", lower_bound=0)
    flags.DEFINE_string(
        "recover", None, "Make trace.h5 from the journal in this directory, and nothing else."
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    refuse_arguments(argv, "bundle")
    if FLAGS.recover is not None:
        _refuse_flags_beside_recover()
        return _recover(FLAGS.recover)
    settings = _settings()
    with contextlib.redirect_stdout(sys.stderr):  # RoboHive's drivers print; stdout is for the report alone
        report = _deploy(settings)
    with contextlib.suppress(OSError):  # a terminal that is gone; the exit code says how the robot was left
        sys.stdout.write(format_report(report) + "\n")
        sys.stdout.flush()
    return report.exit_code


def _refuse_flags_beside_recover() -> None:
    """Refuses the command's other flags, which --recover would ignore."""
    homes = {FLAGS.find_module_defining_flag(name) for name in ("recover", "import")}
    own = [name for name in FLAGS if FLAGS.find_module_defining_flag(name) in homes]
    if others := [f"--{name}" for name in own if FLAGS[name].present and name != "recover"]:
        raise ValueError(f"--recover takes no other flag: leave out {', '.join(others)}")


def _settings() -> Settings:
    """The loop's settings; refuses wrong flags before anything slow is imported."""
    require_flags("bundle", "out")
    if not Path(FLAGS.bundle).is_dir():
        raise ValueError(f"--bundle={FLAGS.bundle}: there is no such directory")
    _check_out(Path(FLAGS.out))
    if FLAGS.hardware is not None and not Path(FLAGS.hardware).is_file():
        raise ValueError(f"--hardware={FLAGS.hardware}: there is no such file")
    if FLAGS.hardware is not None and FLAGS["seed"].present:
        raise ValueError("--seed is for simulated episodes: leave it out with --hardware")
    try:
        safe_action = None if FLAGS.safe_action is None else tuple(map(float, FLAGS.safe_action))
    except ValueError:
        raise ValueError(f"--safe_action={','.join(FLAGS.safe_action)}: must be numbers") from None
    from rlhive.deploy.settings import Settings, check_max_delta

    names = ("max_steps", "max_seconds", "max_delta", "staleness", "frozen", "dry_run")
    settings = Settings(safe_action=safe_action, **{name: getattr(FLAGS, name) for name in names})
    check_max_delta(settings, is_hardware=FLAGS.hardware is not None)
    return settings


def _deploy(settings: Settings) -> Report:
    os.environ.setdefault("ROBOHIVE_VERBOSITY", "WARN" if FLAGS.hardware else "SILENT")
    load_torch_on_one_thread()
    import_own_modules(FLAGS["import"].value)
    from rlhive.deploy.connecting import connect, simulate
    from rlhive.deploy.loop import run
    from rlhive.deploy.provenance import describe_policy
    from rlhive.deploy.settings import check_settings
    from rlhive.envs.names import check_name
    from rlhive.policy_fn.loading import load
    from rlhive.runs.run_files import CHECKPOINTS, checkpoint_dir, seed_dirs

    if (Path(FLAGS.bundle) / CHECKPOINTS).is_dir() and len(seed_dirs(checkpoint_dir(FLAGS.bundle))) > 1:
        command = command_line(f"rlhive.export --run_dir={FLAGS.bundle} --seed=… DIRECTORY")
        raise ValueError(f"--bundle={FLAGS.bundle}: is a run with several seeds; export one with `{command}`")
    policy_source = describe_policy(FLAGS.bundle)
    policy = load(policy_source["path"])
    # Before connecting, which may move the robot.
    check_settings(settings, policy.spec.env, is_hardware=FLAGS.hardware is not None)
    name = FLAGS.env or policy.spec.env.name
    check_name(name)
    if settings.max_steps is None and settings.max_seconds is None:
        settings = attrs.evolve(settings, max_steps=policy.spec.env.max_episode_steps)
    with _alone_in(Path(FLAGS.out)):
        if FLAGS.hardware is None:
            env = simulate(name, FLAGS.seed, policy.spec.env.pixels)
        else:
            env = connect(name, FLAGS.hardware, policy=policy, settings=settings)
        return run(policy, env, FLAGS.out, settings, policy_source)


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Creates the directory and locks it: a second deployment must be refused before it moves the robot."""
    from rlhive.core.files import lock_file

    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(out / ".lock")
    except OSError as error:
        if error.filename is not None:  # the message already names the file
            raise
        raise ValueError(
            f"--out={out}: cannot be locked ({error.strerror}); name an --out on a file system with locks"
        ) from None
    if lock is None:
        raise ValueError(f"--out={out}: another deployment is running there; name another directory")
    try:
        _check_out(out)  # again: another deployment may have ended since the first check
        yield
    finally:
        lock.release()


def _check_out(out: Path) -> None:
    from rlhive.deploy.journal import JOURNAL

    if (out / JOURNAL).exists():
        raise ValueError(f"--out={out}: has the {JOURNAL} of another deployment; name another directory")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out}: is a file; name a directory")


def _recover(directory: str) -> int:
    from rlhive.deploy.journal import JOURNAL, TRACE, write_trace
    from rlhive.deploy.reporting import stop_reason

    folder = Path(directory)
    if not directory or not (folder / JOURNAL).is_file():
        raise ValueError(f"--recover={directory}: has no {JOURNAL}; name the --out of a deployment")
    steps, outcomes = write_trace(folder / JOURNAL, folder / TRACE, stop_reason(folder))
    sys.stdout.write(f"{folder / TRACE}: {steps} steps, {outcomes} with an outcome\n")
    return 0


def format_report(report: Report) -> str:
    """The report as lines for people."""
    lines = [f"{report.reason}: {report.message}; left holding: {report.held}"]
    lines.append(f"  {report.steps} steps, {report.solved} of them solved, return {report.total_reward:.1f}")
    if report.steps:
        for name in ("latency", "jitter"):
            p50, p99, most = (1e3 * report.timing[f"{name}_{which}"] for which in ("p50", "p99", "max"))
            lines.append(f"  {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms")
        lines.append(f"  overruns: {report.timing['overruns']}")
    return "\n".join(lines)


if __name__ == "__main__":
    start("rlhive.deploy", main, define_flags, sys.argv)
