"""What the folder of a sentence encoder must hold, read before anything is loaded from it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from curate.errors import ModelError, SafetyError
from curate.json_file import read_foreign
from curate.model_folder import absence, positions, read_config
from curate.store import canonical, digest, file_digest

Pooling = Literal["auto", "mean", "cls", "last"]
_RESTORE = "restore it from the encoder's repository"
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU")
_PLAIN_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@dataclass(frozen=True)
class Dense:
    """A linear layer after the pooling."""

    folder: Path
    activation: str


@dataclass(frozen=True)
class Layout:
    """What the folder of an encoder says of itself."""

    path: Path
    transformer: Path
    pooling: str  # mean where the folder does not say
    stages: tuple[Dense | None, ...]  # after the pooling, in order; None scales to unit length
    positions: int  # the most tokens that the model can read
    max_length: int  # the most tokens that it was made for
    prompt: str  # before every text
    lower: bool

    def settings(self, pooling: Pooling, max_length: int | None) -> tuple[str, int]:
        """The pooling and the most tokens that these come to for this encoder; ModelError where it cannot."""
        limit = self.max_length if max_length is None else max_length
        if limit > self.positions:
            raise ModelError(f"max_length {limit} is more than the {self.positions} positions of the encoder in {self.path}; lower it")
        chosen = self.pooling if pooling == "auto" else pooling
        if chosen not in ("mean", "cls", "last"):
            raise ModelError(f"the encoder in {self.path} pools by {chosen}, and only mean, cls and last are supported: set pooling, or use another encoder")
        return chosen, limit


def locate(name: str, revision: str | None, folder: Path, *, refresh: bool = False) -> Path:
    """The folder of a local or Hub encoder, a relative one under `folder`; ModelError where there is none.

    What the Hub's cache holds is used as it is, so that all workers read what was hashed; `refresh` asks the Hub first, once in a process, so
    that pool and target have one encoder. No folder or file that is here is ever looked for on the Hub.
    """
    local = (folder / name).expanduser()
    if local.is_dir():
        if revision is not None:
            raise ModelError(f"revision {revision!r} is that of a Hub encoder, but {local} is a folder; remove revision, or rename the folder")
        return local.resolve()
    if local.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"encoder {name!r} is not a folder ({local} {absence(local)}); give a folder with config.json or a Hub id such as org/name")
    return _download(name, revision, local, refresh=refresh)


def _download(name: str, revision: str | None, local: Path, *, refresh: bool) -> Path:
    failure: Exception | None = None
    for found in (_refreshed,) if refresh else (_cached, _refreshed):
        try:
            return found(name, revision)
        except Exception as error:  # the client raises a dozen kinds; all mean that this encoder is not to be had
            failure = error
    raise ModelError(
        f"encoder {name!r} is no folder ({local} {absence(local)}) and the Hub does not give it (revision {revision or 'main'}: {first_sentence(failure)}): "
        "give the folder of an encoder that is here, or check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE"
    ) from failure


def _cached(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=True))


@lru_cache(maxsize=16)
def _refreshed(name: str, revision: str | None) -> Path:
    """What the Hub has now, or the cache where the Hub does not answer."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=False))


def first_sentence(error: Exception | None) -> str:
    """What went wrong, without the advice that libraries add."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(" .:") if lines else type(error).__name__


@lru_cache(maxsize=16)
def fingerprint(path: Path) -> str:
    """The hash of the files that decide the vectors; ModelError or SafetyError where the encoder cannot be used."""
    layout = read_layout(path)
    folders = {path, layout.transformer, *(folder for _, folder in _modules(path))}
    files = sorted({file for folder in folders for pattern in _WANTED for file in folder.glob(pattern) if file.is_file()})
    return digest(canonical([[file.relative_to(path).as_posix(), file_digest(file)] for file in files]))


def read_layout(path: Path) -> Layout:
    """What the folder says, checked without loading it; ModelError says what is missing, SafetyError what would run foreign code."""
    modules = _modules(path)
    transformer = modules[0][1]
    config = read_config(transformer)
    if not any((transformer / name).is_file() for name in _VOCABULARIES):
        raise ModelError(f"{transformer} has no tokenizer.json and no vocabulary; restore the tokenizer from the encoder's repository")
    said = _said(next(iter(sorted(transformer.glob("sentence_*_config.json"))), None))
    if said.get("modality_config", _PLAIN_TEXT) != _PLAIN_TEXT:
        raise ModelError(f"the encoder in {path} reads its texts through a chat template or another head, which is not supported; use another encoder")
    allowed = positions(config, transformer)
    limit = said.get("max_seq_length") or _said(transformer / "tokenizer_config.json").get("model_max_length")
    prompt = _prompt(path / "config_sentence_transformers.json")
    return Layout(
        path,
        transformer,
        pooling=_pooling(path, modules, prompt),
        stages=tuple(_dense(folder) if kind == "Dense" else None for kind, folder in modules if kind in ("Dense", "Normalize")),
        positions=allowed,
        max_length=int(min(limit, allowed)) if isinstance(limit, int | float) and limit >= 1 else allowed,
        prompt=prompt,
        lower=said.get("do_lower_case") is True,
    )


def _prompt(file: Path) -> str:
    said = _said(file)
    prompts, name = said.get("prompts"), said.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return prompt if isinstance(prompt, str) else ""


def _modules(path: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of every module, a Transformer first."""
    file = path / "modules.json"
    if not file.is_file():
        return [("Transformer", path), ("Pooling", path / "1_Pooling")]
    found = []
    for entry in read_foreign(file, list, _RESTORE):
        kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise ModelError(f"{file} has a module without type or path; restore it from the encoder's repository")
        if not kind.startswith("sentence_transformers."):
            raise SafetyError(f"{file} asks for code of the encoder's repository ({kind}), which is never run: use an encoder without modules of its own")
        if not (path / folder).resolve().is_relative_to(path.resolve()):
            raise SafetyError(f"{file} names the folder {folder!r}, which is outside the encoder's own; restore it from the encoder's repository")
        found.append((kind.rsplit(".", 1)[-1], path / folder))
    kinds = [kind for kind, _ in found]
    if kinds[:1] != ["Transformer"] or kinds[1:2] not in ([], ["Pooling"]) or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise ModelError(f"{file} chains {', '.join(kinds)}; supported is a Transformer, then Pooling, then Dense and Normalize: use another encoder")
    return found


def _pooling(path: Path, modules: list[tuple[str, Path]], prompt: str) -> str:
    file = modules[1][1] / "config.json" if len(modules) > 1 else None
    said = _said(file)
    if prompt and said.get("include_prompt") is False:
        raise ModelError(f"{file} leaves the prompt of the encoder in {path} out of the pooling, which is not supported; use another encoder")
    modes = said.get("pooling_mode") or [mode for flag, mode in _POOLING_FLAGS.items() if said.get(flag) is True] or ["mean"]
    named = "+".join(map(str, modes if isinstance(modes, list) else [modes]))
    return "last" if named == "lasttoken" else named


def _dense(folder: Path) -> Dense:
    said = read_foreign(folder / "config.json", dict, _RESTORE)
    activation = str(said.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS or said.get("use_residual") or said.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ModelError(f"{folder / 'config.json'} is not a plain linear layer with one of {', '.join(_ACTIVATIONS)} after it; use another encoder")
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder} has no model.safetensors; pickled weights (.bin) are refused: use a revision that carries safetensors, or convert them")
    return Dense(folder, activation)


def _said(file: Path | None) -> dict[str, Any]:
    """The mapping in a file that may be absent."""
    return read_foreign(file, dict, _RESTORE) if file and file.is_file() else {}
