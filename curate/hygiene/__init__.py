"""Clean pools: one normal form of text, duplicates, the leak gate, and flags of poor rows."""
