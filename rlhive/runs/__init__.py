"""The files of a run: the layout of its directory, its spec, its checkpoints."""
