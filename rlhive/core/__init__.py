"""The functional core: parameter trees, optimizer, train step, seeds, replay, checkpoints."""
