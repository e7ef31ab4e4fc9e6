"""How many tokens each layer and head may keep, one file each."""
