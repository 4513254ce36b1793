"""What a deployment was: which policy, settings, configuration and packages, and when; plain values for JSON."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.core.files import file_sha256
from rlhive.deploy.settings import Settings
from rlhive.policy_fn.bundle import is_bundle
from rlhive.policy_fn.bundle_files import SPEC, read_spec, text_hash
from rlhive.policy_fn.loading import seed_dir
from rlhive.runs.checkpoint_files import read_part
from rlhive.runs.run_files import part_path
from rlhive.runs.run_spec import versions


def describe_policy(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Where a policy is from: "path", "sha256", "seed" and "step" of a bundle, or of a seed in a run or checkpoint.

    The hash is the bundle's own, over all that it consists of; or that of the checkpoint's parameters. `path` may be
    loaded: it stays this one when the run goes on.

    Raises:
        LoadError: there is none, or it is damaged.
    """
    if is_bundle(path):
        values = read_spec(Path(path) / SPEC)
        return _source(path, text_hash(values), values.get("seed"), values.get("step"))
    folder = seed_dir(path)
    header = read_part(folder, "params")[1]
    return _source(folder, file_sha256(part_path(folder, "params")), header.seed, header.step)


def describe_deployment(
    policy_source: Mapping[str, Any] | None, env: Any, settings: Settings, dt: float
) -> dict[str, Any]:
    """What is written down of a deployment that starts now.

    Args:
        policy_source: of `describe_policy`; None where that is not known.
        env: a live RoboHive environment, not wrapped; hardware is known by what `connecting.connect` left there.
        settings: of the loop.
        dt: the control period, seconds.

    Raises:
        ValueError: `policy_source` has what JSON has no word for.
    """
    values = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(),
        "policy": policy_source,
        "hardware": getattr(env, "configuration_source", None),
        "settings": attrs.asdict(settings),
        "dt": dt,
        "versions": versions(),
    }
    try:
        found: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        message = f"policy_source must be plain values, as of describe_policy: {error}"
        raise ValueError(message) from None
    return found


def _plain(value: Any) -> Any:
    """A numpy number, which may be among the settings, as one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected text, numbers, lists or mappings, got {value!r}")


def _source(path: str | os.PathLike[str], sha256: str, seed: int | None, step: int | None) -> dict[str, Any]:
    return {"path": os.path.abspath(path), "sha256": sha256, "seed": seed, "step": step}
