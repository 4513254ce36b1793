"""One run from beginning to end: environments, learner, replay and files, put together step by step."""
