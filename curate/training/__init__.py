"""What a fine-tuning run is made of: its order, its parts, its state."""
