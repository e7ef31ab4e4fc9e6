"""What is stored, one file each."""
