"""Writes a trained policy into one directory, for the robot.

python -m rlhive.export --run_dir=runs/reach policies/reach
python -m rlhive.export --run_dir=runs/reach --seed=2 --onnx --torch_export policies/reach
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from absl import flags

from rlhive import load_torch
from rlhive.command import require_flags, start
from rlhive.own_modules import define_import_flag, import_own_modules

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Directory of the run, or of one of its checkpoints.")
    flags.DEFINE_integer("seed", None, "Which seed; required if the run has several.", lower_bound=0)
    flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.", lower_bound=0)
    define_import_flag()
    flags.DEFINE_bool("onnx", False, "Also write policy.onnx, and compare it with the policy.")
    flags.DEFINE_bool("torch_export", False, "Also write policy.pt2, and compare it with the policy.")


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    require_flags("run_dir")
    if len(argv) != 2:
        raise ValueError("name one directory to write to, such as `--run_dir=runs/reach policies/reach`")
    if not Path(FLAGS.run_dir).is_dir():
        raise ValueError(f"--run_dir={FLAGS.run_dir}: there is no such directory")
    if FLAGS.onnx and not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise ValueError(
            "--onnx needs its packages: `uv sync --extra onnx` or `pip install onnx onnxruntime onnxscript`"
        )
    load_torch()
    with contextlib.redirect_stdout(sys.stderr):  # the exporters print to stdout
        import_own_modules(FLAGS["import"].value)
        export(
            FLAGS.run_dir,
            argv[1],
            seed=FLAGS.seed,
            step=FLAGS.step,
            onnx=FLAGS.onnx,
            torch_export=FLAGS.torch_export,
        )
    sys.stdout.write(f"{argv[1]}\n")
    return 0


def export(
    run_dir: str | PathLike[str],
    out: str | PathLike[str],
    *,
    seed: int | None = None,
    step: int | None = None,
    onnx: bool = False,
    torch_export: bool = False,
) -> None:
    """Writes the bundle of one seed of a run, completely or not at all.

    Args:
        run_dir: the directory of a run or checkpoint.
        out: the directory to create.
        seed: which seed; required if there are several.
        step: which checkpoint; the latest by default.
        onnx: also write `policy.onnx`.
        torch_export: also write `policy.pt2`.

    Raises:
        LoadError: no such policy, or `out` exists.
        RuntimeError: an exported file computes different actions from the policy's.
    """
    load_torch()

    from rlhive.policy_fn import exporting
    from rlhive.policy_fn.bundle import Bundle, check_absent, describe, write_bundle
    from rlhive.policy_fn.loading import load, seed_dir
    from rlhive.runs.checkpoint_files import read_part

    check_absent(out)
    folder = seed_dir(run_dir, seed, step)
    policy = load(folder)
    header = read_part(folder, "params")[1]
    bundle = Bundle(policy.spec, policy.params, policy.env_state, header.seed, header.step)
    with tempfile.TemporaryDirectory() as scratch:
        extras = []
        if onnx or torch_export:
            description = describe(policy.spec, header.seed, header.step)
            extras = exporting.write_graphs(
                policy, Path(scratch), description, onnx=onnx, torch_export=torch_export
            )
        write_bundle(out, bundle, extras)


if __name__ == "__main__":
    start("rlhive.export", main, define_flags, sys.argv)
