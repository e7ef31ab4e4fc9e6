"""Sentence encoders on transformers alone: sentence-transformers models, and plain transformers encoders.

Only safetensors, never remote code. Padding takes no part in a vector, so a text alone gives what it gives in a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curate.batches import micro_batches
from curate.encoder_folder import Dense, Layout, Pooling, first_sentence, read_layout
from curate.errors import ModelError

MICRO_BATCH_TOKENS = 2048  # more leave the caches of a CPU


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder; for reading only."""

    layout: Layout
    model: Any
    tokenizer: Any
    stages: tuple[Callable[[Tensor], Tensor], ...]
    device: str
    width: int = 0

    def encode(self, texts: Sequence[str | None], *, pooling: Pooling = "auto", max_length: int | None = None, normalise: bool = True) -> Tensor:
        """(N, D) float32 on the encoder's device, each row of its own text only; NaN where a text is None, blank or without tokens.

        Args:
            texts: what is longer than `max_length` tokens, special ones included, is cut.
            pooling: mean of the last hidden states, the first one (cls) or the last one; auto is the folder's own.
            max_length: None is the folder's own.
            normalise: scale to unit length, also where the folder's own modules do not.
        """
        chosen, limit = self.layout.settings(pooling, max_length)
        tokens = self._tokens(texts, limit)
        lengths = np.array([len(row) for row in tokens], np.int64)
        vectors = torch.full((len(texts), self.width), torch.nan, device=self.device)
        known = np.flatnonzero(lengths)
        for part in micro_batches(lengths[known], MICRO_BATCH_TOKENS):
            rows = known[part]
            vectors[torch.from_numpy(rows).to(self.device)] = self.vectors([tokens[row] for row in rows], chosen)
        return nn.functional.normalize(vectors, dim=1) if normalise else vectors

    def vectors(self, tokens: Sequence[Sequence[int]], pooling: str) -> Tensor:
        """(B, D) of rows of at least one token each, right-padded to the longest."""
        lengths = torch.tensor([len(row) for row in tokens], device=self.device)
        mask = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id or 0, device=self.device)
        ids[mask] = torch.tensor([token for row in tokens for token in row], device=self.device)
        with torch.no_grad():
            states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            pooled = _pool(states, mask, lengths, pooling)
            for stage in self.stages:
                pooled = stage(pooled)
        return pooled

    def _tokens(self, texts: Sequence[str | None], limit: int) -> list[list[int]]:
        special = self.tokenizer.num_special_tokens_to_add()
        if limit <= special:
            raise ModelError(f"max_length {limit} leaves no room for text beside the {special} special tokens of the encoder in {self.layout.path}; raise it")
        found: list[list[int]] = [[] for _ in texts]
        said = {i: text for i, text in enumerate(texts) if text and text.strip()}
        if not said:
            return found
        spoken = [self.layout.prompt + text for text in said.values()]
        options = {"truncation": True, "max_length": limit, "padding": False, "return_attention_mask": False}
        read = self.tokenizer([text.lower() for text in spoken] if self.layout.lower else spoken, **options)
        for i, tokens in zip(said, read["input_ids"], strict=True):
            found[i] = tokens
        return found


@lru_cache(maxsize=2)
def load(path: Path, device: str = "cpu") -> Encoder:
    """The encoder in this folder, in float32, the same for every task of this process."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    layout = read_layout(path)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = _load_model(layout.transformer)
        tokenizer = AutoTokenizer.from_pretrained(str(layout.transformer), trust_remote_code=False, local_files_only=True)
        stages = tuple(_load_stage(stage, device) for stage in layout.stages)
    except Exception as error:  # safetensors, transformers, tokenizers and json each raise their own for damaged files
        raise ModelError(f"the encoder in {path} does not load: {first_sentence(error)}; restore its files from its repository, or use another") from error
    _check_weights(path, model, tokenizer, found)
    readable = min([layout.positions, *_padded_positions(model)])
    layout = replace(layout, positions=readable, max_length=min(layout.max_length, readable))
    encoder = Encoder(layout, model.to(device).eval(), tokenizer, stages, device)
    try:
        return replace(encoder, width=encoder.vectors([[0, 0]], "mean").shape[1])
    except Exception as error:  # whatever a model that is no text encoder, or a Dense of another width, stumbles over
        raise ModelError(f"the encoder in {path} cannot embed a text: {first_sentence(error)}; use another encoder") from error


def _load_model(path: Path) -> tuple[Any, dict[str, Any]]:
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding

    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    config.use_cache = False
    # of an encoder with a decoder, such as T5, only the encoder; one that has none of its own is refused there
    kind: Any = AutoModelForTextEncoding if config.is_encoder_decoder or type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True, "local_files_only": True}
    loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(str(path), config=config, dtype=torch.float32, trust_remote_code=False, **options)
    return loaded


def _load_stage(stage: Dense | None, device: str) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file

    if stage is None:
        return nn.functional.normalize
    weights = load_file(str(stage.folder / "model.safetensors"))
    weight, bias = weights["linear.weight"].float().to(device), weights.get("linear.bias")
    activation = getattr(nn, stage.activation)()
    return lambda vectors: activation(nn.functional.linear(vectors, weight, None if bias is None else bias.float().to(device)))


def _check_weights(path: Path, model: Any, tokenizer: Any, found: dict[str, Any]) -> None:
    """transformers draws at random what the files do not hold; only the pooler may be absent, for it is not read."""
    absent = sorted(name for name in {*found["missing_keys"], *(str(entry[0]) for entry in found["mismatched_keys"])} if not name.startswith("pooler."))
    if absent:
        raise ModelError(
            f"the weights in {path} lack {len(absent)} tensors of the shape that config.json asks for (first: {absent[0]}); "
            "restore weights and config.json from one repository"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"the tokenizer in {path} has {len(tokenizer)} entries but the encoder embeds {rows}; restore both from one repository")
    for name, parameter in model.named_parameters():
        if not name.startswith("pooler.") and not parameter.isfinite().all():
            raise ModelError(f"the weights in {path} are damaged: {name} holds NaN or infinity; restore them from the encoder's repository")


def _padded_positions(model: Any) -> list[int]:
    """Positions of models that, like RoBERTa, start to count after the padding token's id."""
    found = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    return [module.num_embeddings - module.padding_idx - 1 for module in found if getattr(module, "padding_idx", None) is not None]


def _pool(states: Tensor, mask: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """(B, D) of states (B, T, D) whose rows end with padding."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    return states.masked_fill(~mask[:, :, None], 0).sum(1) / lengths[:, None]
