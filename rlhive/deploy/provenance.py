"""Describes a deployment as plain values for JSON: policy, settings, configuration, packages and start time."""

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
    """Where a policy comes from: "path", "sha256", "seed" and "step" of a bundle, or of a seed in a run or checkpoint.

    The hash is the bundle's own, which covers all its contents, or that of the checkpoint's parameters. `path` can be
    loaded, and keeps naming this policy when the run goes on.

    Raises:
        LoadError: there is no policy, or it is damaged.
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
    """The description of a deployment that starts now.

    Args:
        policy_source: as returned by `describe_policy`; None if it is not known.
        env: a live RoboHive environment, unwrapped; `connecting.connect` stored hardware's configuration there.
        settings: the loop's settings.
        dt: the control period, seconds.

    Raises:
        ValueError: `policy_source` contains values that JSON cannot express.
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
        message = f"policy_source must be plain values, like those of describe_policy: {error}"
        raise ValueError(message) from None
    return found


def _plain(value: Any) -> Any:
    """Converts a numpy number, a path, or a mapping other than a dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected text, numbers, lists or mappings, got {value!r}")


def _source(path: str | os.PathLike[str], sha256: str, seed: int | None, step: int | None) -> dict[str, Any]:
    return {"path": os.path.abspath(path), "sha256": sha256, "seed": seed, "step": step}
