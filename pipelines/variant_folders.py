"""The folders of adapters that a command line names: what each is called, and which of them are activated ones."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from curate.errors import ConfigError, IntegrityError
from curate.inference.adapter_folder import adapter_folder
from curate.pipelines.ask_variants import BASE
from curate.settings import Lora
from curate.store import read_json


@dataclass(frozen=True)
class VariantFolders:
    """Adapters by name, in the order that they were given."""

    paths: Mapping[str, Path]
    activated: tuple[str, ...]  # those that act from their invocation tokens on
    lora: Lora | None  # of curate's own checkpoints among them


def variant_folders(paths: Sequence[Path]) -> VariantFolders:
    """Every adapter by the name of its folder; an error for what is no adapter, and for two of one name."""
    named: dict[str, Path] = {}
    for path in paths:
        name = Path(os.path.abspath(path)).name  # of a link its own name, not that of what it leads to
        if name == BASE or name in named:
            raise ConfigError(f"two variants would be called {name!r}; adapters are named by their folders: rename {path}, or link to it by another name")
        named[name] = path
    lora = _lora(paths)
    folders = {name: adapter_folder(path, lora) for name, path in named.items()}
    return VariantFolders(named, tuple(name for name, folder in folders.items() if folder.invocation), lora)


def _lora(paths: Sequence[Path]) -> Lora | None:
    """The settings of the adapters in checkpoints of `curate run`, from their manifests."""
    found: dict[Lora, Path] = {}
    for path in paths:
        manifest = path / "manifest.json"
        if (path / "weights.safetensors").is_file() and manifest.is_file():
            try:
                given = read_json(manifest)["fields"]["model"]["lora"]
                if given:
                    found.setdefault(Lora.model_validate(given), path)
            except (LookupError, TypeError, ValidationError) as error:
                raise IntegrityError(f"{manifest} is no manifest of a checkpoint; copy the folder again") from error
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise ConfigError(f"{one} and {other} were trained with unlike settings of adapters; evaluate them by two commands")
    return next(iter(found), None)
