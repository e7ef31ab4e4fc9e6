"""Optimal transport from kept rows to the target."""
