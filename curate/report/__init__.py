"""The report of a run: one document of results, rendered for the terminal, as Markdown and as one HTML page."""
