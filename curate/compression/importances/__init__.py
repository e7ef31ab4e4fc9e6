"""What the tokens of a prefix are worth, one file each."""
