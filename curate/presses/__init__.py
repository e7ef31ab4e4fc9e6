"""Presses: published ways to compress the cache of a prefix, one file each."""
