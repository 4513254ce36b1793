"""Threads and memory are set as in the commands of RLHive (`rlhive.command`), for all libraries alike."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported, which `rlhive` does

from rlhive.command import keep_freed_memory

keep_freed_memory()
