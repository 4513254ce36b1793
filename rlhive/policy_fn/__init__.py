"""Policies: networks as pure functions, exploration, and loading a trained policy."""
