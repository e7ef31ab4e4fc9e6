"""A source as it is given on the command line."""

from pydantic import ValidationError

from curate.data.source import Source
from curate.strict_yaml import explain, load


def in_braces(text: str, option: str) -> Source | None:
    """The source that is written as in a recipe, `{path: FILE, prompt: "..."}`; None for the name of a file. ConfigError names the option."""
    if not text.lstrip().startswith("{"):
        return None
    document = load(text, option)
    try:
        return Source.model_validate(document.value)
    except ValidationError as error:
        raise explain(document, error, lambda path: list(Source.model_fields)) from error
