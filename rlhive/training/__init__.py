"""One run from start to end: it combines environments, learner, replay and files."""
