"""A language model that chooses: its questions, its answers, and the record of both."""
