"""curate: choose the training rows that make a language model better at your target, and prove it."""

__version__ = "0.1.0"
