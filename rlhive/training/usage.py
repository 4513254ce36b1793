"""The usage.json of a run: the time of all its processes, its steps, and their largest memory.

It also says whether updates were compiled, 1 or 0, since that affects rounding.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlhive import WORKER_NAME
from rlhive.algorithms import step_key
from rlhive.core.files import write_text
from rlhive.runs.run_files import USAGE_FILE, read_usage

if TYPE_CHECKING:
    from rlhive.training.run import Run


def record_usage(run: Run) -> None:
    """Writes the time and memory used so far; with every checkpoint, so that a killed process is counted too."""
    usage = {
        "seconds": round(time.monotonic() - run.started, 3),
        step_key(run.config.algorithm): run.step,
        "peak_memory_bytes": _peak_memory("self"),
        "updates_compiled": int(run.config.compiles),
    }
    workers = [process for process in multiprocessing.active_children() if process.name == WORKER_NAME]
    if workers:
        with contextlib.suppress(OSError):  # a worker may end meanwhile
            usage["worker_peak_memory_bytes"] = max(_peak_memory(str(worker.pid)) for worker in workers)
    # Includes what graphs and the allocator hold; 0 if nothing was left to do.
    if run.config.on_gpu and (peak := torch.cuda.max_memory_reserved(run.config.device)):
        usage["gpu_peak_memory_bytes"] = peak
    write_usage(run.run_dir, usage)


def write_usage(run_dir: Path, usage: Mapping[str, float]) -> None:
    """Writes figures; of each the larger of old and new stays, but updates_compiled is always the new one."""
    before = read_usage(run_dir)
    largest = {name: max(value, before.get(name, 0)) for name, value in {**before, **usage}.items()}
    now = {"updates_compiled": usage["updates_compiled"]} if "updates_compiled" in usage else {}
    write_text(run_dir / USAGE_FILE, json.dumps(largest | now, indent=2) + "\n")


def _peak_memory(process: str) -> int:
    """Bytes; `getrusage` would give the parent's if they are larger."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
