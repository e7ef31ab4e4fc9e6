"""Selections of good and diverse rows: one objective, and those who climb it."""
