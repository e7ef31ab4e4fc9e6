"""Loading a causal language model safely, and what it says of the batches it reads.

Only safetensors, never remote code; a Hub id is resolved to a folder once, and every worker loads that folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curate.adapters import attach_adapters
from curate.batches import micro_batches as micro_batches
from curate.batches import padded
from curate.beat import beat
from curate.core import Checkpoint, Row
from curate.errors import ModelError
from curate.interfaces import Batch
from curate.kept import kept
from curate.model_folder import DEFAULT_POSITIONS, absence, positions, read_config
from curate.settings import Lora, ModelSpec
from curate.store import canonical, digest, file_digest
from curate.tensor_file import read_tensors

_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelHandle:
    """A model by folder and content: small, picklable, the same on every worker."""

    path: Path
    fingerprint: str
    dtype: str
    max_length: int
    lora: Lora | None = None

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        return {
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "lora": self.lora.model_dump(mode="json") if self.lora else None,
        }


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model with its tokenizer; `names` maps saved tensor names to the parameters that training changes."""

    model: Any
    tokenizer: Any
    device: str
    names: Mapping[str, nn.Parameter]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Rows right-padded to the longest, on the model's device."""
        beat()
        return padded(rows, self.pad, self.device)

    @property
    def pad(self) -> int:
        """Any token serves: padding is masked out of attention and loss."""
        given = self.tokenizer.pad_token_id
        return int(given) if given is not None else 0

    def hidden_states(self, batch: Batch) -> Tensor:
        """The decoder's last hidden states after its final norm, (B, T, H)."""
        states: Tensor = decoder_of(self.model)(input_ids=batch.input_ids, attention_mask=batch.mask.long(), use_cache=False).last_hidden_state
        return states

    def use(self, checkpoint: Checkpoint) -> None:
        """Put the checkpoint's weights into the model."""
        apply_weights(self.names, _kept(checkpoint.path))


def resolve(spec: ModelSpec, folder: Path) -> ModelHandle:
    """The folder of a local or Hub model, checked without loading it; ModelError says what is missing."""
    local = (folder / spec.path).expanduser()
    if local.is_dir():
        if spec.revision is not None:
            raise ModelError(f"model.revision {spec.revision!r} is that of a Hub model, but {local} is a folder; remove revision, or rename the folder")
        path = local.resolve()
    elif local.exists() or spec.path.startswith((".", "/", "~")) or spec.path.count("/") > 1:
        raise ModelError(f"model.path {spec.path!r} is not a folder ({local} {absence(local)}); give a folder with config.json or a Hub id such as org/name")
    else:
        path = _download(spec, local)
    allowed = positions(read_config(path), path)
    wanted = spec.max_length or min(allowed, DEFAULT_POSITIONS)
    if wanted > allowed:
        raise ModelError(f"model.max_length {wanted} is more than the {allowed} positions of {spec.path}; lower it")
    return ModelHandle(path, _fingerprint(path), spec.dtype, wanted, spec.lora)


def _download(spec: ModelSpec, local: Path) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=_WANTED))
    except Exception as error:  # the client raises a dozen kinds; all mean that this model is not to be had
        raise ModelError(
            f"model.path {spec.path!r} is no folder ({local} {absence(local)}) and the Hub does not give it (revision {spec.revision or 'main'}): "
            f"{_first_line(error)}. Check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


@lru_cache(maxsize=16)
def _fingerprint(path: Path) -> str:
    files = sorted(file for pattern in _WANTED for file in path.glob(pattern) if file.is_file())
    return digest(canonical([[file.name, file_digest(file)] for file in files]))


def load_tokenizer(handle: ModelHandle) -> Any:
    """The model's tokenizer, without remote code."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(handle.path), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions, transformers whatever its parsing met
        reason = _first_line(error) if (handle.path / "tokenizer.json").is_file() else "there is no tokenizer.json"
        raise ModelError(f"the tokenizer in {handle.path} does not load: {reason}; restore its files from the model's repository") from error


def check_architecture(handle: ModelHandle) -> None:
    """ModelError if no model can be built from the configuration, tokenizer and adapters; loads no weights."""
    model = _skeleton(handle)
    _check_vocabulary(model, load_tokenizer(handle), handle)
    if handle.lora:
        attach_adapters(model, handle.lora, 0)


def trained_shapes(handle: ModelHandle, modules: str | Sequence[str] = "all") -> list[tuple[int, int]]:
    """The shapes of the weights of the trained linear layers, whose gradients scorers read; loads no weights."""
    from curate.gradients import trained_layers

    model = _skeleton(handle)
    names = dict(model.named_parameters())
    if handle.lora:
        model, names = attach_adapters(model, handle.lora, 0)
    layers = trained_layers(LanguageModel(model, None, "meta", names), modules)
    return [(int(names[name].shape[0]), int(names[name].shape[1])) for name in layers]


def _skeleton(handle: ModelHandle) -> Any:
    """The model without its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(handle.path), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a wrong number in a configuration leads to
        raise ModelError(f"{handle.path / 'config.json'} describes no model that transformers can build: {_first_line(error)}; use another model") from error


def fresh(handle: ModelHandle, device: str = "cpu", *, seed: int = 0) -> LanguageModel:
    """A newly loaded model; adapters, where the handle names them, start from `seed`."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(handle.path), dtype=getattr(torch, handle.dtype), trust_remote_code=False, **options)
    except Exception as error:  # safetensors, transformers and json each raise their own for damaged files
        raise ModelError(f"the model in {handle.path} does not load: {_first_line(error)}; restore its files from the model's repository") from error
    model, found = loaded
    tokenizer = load_tokenizer(handle)
    _check_vocabulary(model, tokenizer, handle)
    _check_weights(model, found, handle)
    if handle.lora:
        model, names = attach_adapters(model, handle.lora, seed)
    else:
        names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.to(torch.device(device))
    return LanguageModel(model.eval(), tokenizer, device, names)


@lru_cache(maxsize=1)
def cached(handle: ModelHandle, device: str = "cpu") -> LanguageModel:
    """The same model for every task of this process; for reading only."""
    return fresh(handle, device)


def _check_vocabulary(model: Any, tokenizer: Any, handle: ModelHandle) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"the tokenizer in {handle.path} has {len(tokenizer)} entries but the model embeds {rows}; restore both from one repository")


def _check_weights(model: Any, found: Mapping[str, Any], handle: ModelHandle) -> None:
    """transformers draws at random what the files do not hold in the right shape, and says so only in a log."""
    absent = sorted({*found["missing_keys"], *(str(entry[0]) for entry in found["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"the weights in {handle.path} lack {len(absent)} tensors of the shape that config.json asks for (first: {absent[0]}); "
            "restore weights and config.json from one repository"
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"the weights in {handle.path} are damaged: {name} holds NaN or infinity; restore them from the model's repository")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint by name."""
    return read_tensors(path / "weights.safetensors")


_kept = kept(most_bytes=2**30, most_values=64)(read_weights)  # a warm-up's checkpoints, put in again for every batch; mapped, so that workers share them


def apply_weights(names: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Copy tensors into parameters; every name and shape must agree."""
    if set(weights) != set(names):
        odd = sorted(set(weights) ^ set(names))[0]
        raise ModelError(f"the checkpoint does not belong to this model: tensor {odd} is on one side only")
    with torch.no_grad():
        for name, tensor in weights.items():
            if tensor.shape != names[name].shape:
                raise ModelError(f"the checkpoint does not belong to this model: {name} is {tuple(tensor.shape)}, expected {tuple(names[name].shape)}")
            names[name].copy_(tensor)


def token_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (S, V) in float32 before every supervised token, that token, and its row number, both (S,)."""
    row, position = torch.nonzero(batch.supervised[:, 1:], as_tuple=True)
    return logits_at(model, batch.input_ids, batch.mask, row, position), batch.input_ids[row, position + 1], row


def logits_at(model: Any, input_ids: Tensor, mask: Tensor | None, row: Tensor, position: Tensor) -> Tensor:
    """Logits (S, V) in float32 after these positions (S,) of these rows (S,) of the tokens (B, T).

    The head reads only the positions that are asked for: they take the place of the decoder's output. Rows padded on the right
    need no mask: no token sees one behind it.
    """

    def pick(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[row, position].unsqueeze(0)
        return output

    hook = decoder_of(model).register_forward_hook(pick)
    try:
        logits: Tensor = model(input_ids=input_ids, attention_mask=None if mask is None else mask.long(), use_cache=False).logits
    finally:
        hook.remove()
    return logits[0].float()


def decoder_of(model: Any) -> Any:
    """The part of a causal language model below its head."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(causal, causal.base_model_prefix)


def token_losses(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats of every supervised token given those before it, and its row number, both (S,)."""
    logits, token, row = token_logits(model, batch)
    return nn.functional.cross_entropy(logits, token, reduction="none"), row


def row_means(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Mean of `values` (S,) within each of `rows` rows."""
    return row_sums(values, row, rows) / torch.bincount(row, minlength=rows).clamp(min=1)


def row_sums(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Sum of `values` (S,) within each of `rows` rows, in one order of terms on any device: `index_put` sorts before it adds."""
    return torch.zeros(rows, dtype=values.dtype, device=values.device).index_put((row,), values, accumulate=True)
