"""Exact inference for evaluation: shared prompt prefixes are computed once."""
