"""What the folder of a model must hold, read before anything is loaded from it."""

from pathlib import Path
from typing import Any

from curate.errors import ModelError, SafetyError
from curate.json_file import read_foreign

DEFAULT_POSITIONS = 2048


def read_config(path: Path) -> dict[str, Any]:
    """The model's config.json. ModelError where the folder holds no usable model, SafetyError where it asks for code of its own."""
    config = _mapping(path / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        file = path / name
        if file.is_file() and "auto_map" in _mapping(file):
            raise SafetyError(f"{file} asks for code of the model's repository (auto_map), which is never run: use a model that transformers supports itself")
    if "quantization_config" in config:
        raise ModelError(f"the weights in {path} are quantised and give no gradients; use the model that they were made from")
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path} holds an adapter, not a whole model; merge it into its base model and give that folder")
    if not list(path.glob("model*.safetensors")):
        raise ModelError(f"{path} has no model.safetensors; pickled weights (.bin, .pt) are refused: use a revision that carries safetensors, or convert them")
    return config


def absence(path: Path) -> str:
    """Why this is no folder: `is a file`, or `does not exist`."""
    return "is a file" if path.exists() else "does not exist"


def positions(config: dict[str, Any], path: Path) -> int:
    """The most tokens that the model can read at once."""
    for name in ("max_position_embeddings", "n_positions"):
        value = config.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"{path / 'config.json'}: {name} is {value!r}, not a number of tokens; restore the file from the model's repository")
            return value
    return DEFAULT_POSITIONS


def _mapping(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{file.parent} has no {file.name}; give the folder of a transformers model, with config.json, tokenizer.json and model.safetensors")
    return read_foreign(file, dict, "restore it from the model's repository")
