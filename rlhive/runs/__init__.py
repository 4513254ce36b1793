"""What a run leaves on disk: the layout of its directory, its spec, its checkpoints."""
