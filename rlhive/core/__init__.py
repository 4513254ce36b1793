"""The functional core: parameter trees, optimizer, train step, seeds, replay; nothing else of the library."""
