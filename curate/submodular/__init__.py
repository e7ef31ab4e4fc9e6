"""Submodular set functions over the rows of a pool, and the ways to maximise them within a budget."""
