"""The press that a command line names."""

from pydantic import ValidationError

from curate.errors import ConfigError
from curate.interfaces import Press
from curate.registry import component, load, names
from curate.strict_yaml import explain, nearest
from curate.strict_yaml import load as read


def read_press(text: str | None) -> Press | None:
    """A press by its name, or by a mapping in YAML such as `{name: snapkv, keep: 0.5}`; ConfigError, in a line, for anything else."""
    if text is None:
        return None
    if "{" not in text and ":" not in text:
        found = component("presses", text.strip())
    else:
        document = read(text, "--press")
        name = document.value.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"--press {text!r} has no name; write a name, or {{name: ..., field: ...}}; {nearest('', names('presses'), 'presses')}")
        method = load("presses", name)
        try:
            found = component("presses", document.value)
        except ValidationError as error:
            raise explain(document, error, lambda path: list(method.model_fields)) from error
    if not isinstance(found, Press):
        raise ConfigError(f"--press {text!r} is no press; {nearest('', names('presses'), 'presses')}")
    return found
