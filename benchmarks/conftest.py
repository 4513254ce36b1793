"""Threads and memory are set as in the commands of RLHive (`rlhive.command`), for all libraries alike."""

from rlhive.command import keep_freed_memory, let_threads_sleep

let_threads_sleep()  # before torch is imported
keep_freed_memory()
