"""Tasks in the YAML of lm-evaluation-harness, on local data: task file and documents to questions, tokens and scores."""
