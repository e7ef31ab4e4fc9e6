"""Compression of key-value caches in three parts: what a token is worth, how many each layer and head may keep, and what becomes of the rest."""
