"""OpenMP's threads sleep as soon as in the commands of RLHive (`rlhive.command`), for all libraries alike."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported
