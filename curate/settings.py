"""The parts of a recipe that services read: model, LoRA, warm-up and training. No heavy imports."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from curate.core import Config
from curate.training.pruning import AnyPruning

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def _share(value: Any) -> Any:
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]


# What LESS trains with (Xia et al., 2024), and what is common practice for small adapters.
_LORA: dict[str, dict[str, Any]] = {"less": {"r": 128, "alpha": 512.0, "dropout": 0.1, "targets": "attention"}, "light": {}}
_TRAIN: dict[str, dict[str, Any]] = {
    "less": {"epochs": 4, "learning_rate": 2e-5, "batch_size": 32, "schedule": "linear", "warmup_ratio": 0.03, "precision": "bfloat16"},
    "light": {"epochs": 2, "learning_rate": 2e-4, "batch_size": 16, "schedule": "linear", "warmup_ratio": 0.03, "packing": True},
}


def _preset(value: Any, presets: dict[str, dict[str, Any]]) -> Any:
    """The fields of a preset, named alone or as `preset:` among fields that take its place."""
    given = {"preset": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or "preset" not in given:
        return value
    name = given["preset"]
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; presets: {', '.join(presets)}")
    return {**presets[name], **{field: setting for field, setting in given.items() if field != "preset"}}


class Lora(Config):
    """Low-rank adapters W + (alpha / r) B A on linear layers (Hu et al., 2021); `less` or `light` alone stands for a preset."""

    r: int = Field(16, ge=1, description="Rank.")
    alpha: float = Field(32, gt=0, description="The update is scaled by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1)
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead, which keeps large ranks learning (Kalajdzievski, 2023).")
    dora: bool = Field(False, description="Learn the length of every column of W apart from its direction (DoRA; Liu et al., 2024).")
    targets: Literal["all", "attention"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all", description="Linear layers: all, attention, or name endings such as [q_proj, v_proj]."
    )

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, value: Any) -> Any:
        return _preset(value, _LORA)


class ModelSpec(Config):
    """A causal language model in safetensors: a folder, or a Hub id with a revision."""

    path: str = Field(min_length=1, description="Folder (relative to the recipe) or Hub id.")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int | None = Field(None, ge=8, description="Longest row in tokens; longer rows are set aside. Default: what the model allows, at most 2048.")
    lora: Lora | None = Field(None, description="Fine-tune adapters only; absent: fine-tune all weights.")


class Optimizer(Config):
    """AdamW (Loshchilov and Hutter, 2019) with linear warm-up and a decay to zero."""

    learning_rate: float = Field(2e-4, gt=0, le=1e30)
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(16, ge=1, description="Rows per optimizer step.")
    micro_batch_tokens: int = Field(4096, ge=1, description="Padded tokens per forward pass; a longer row goes alone.")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=1e6)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of matrix products in forward and backward passes; weights and moments keep the model's dtype."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them: less memory, about a third more time.")
    packing: bool = Field(False, description="Rows one behind the other, without padding and without seeing each other, up to micro_batch_tokens.")
    chunk_tokens: int | None = Field(None, ge=16, description="Rows longer than this go through the model in pieces of it, with the same gradient.")


class Warmup(Optimizer):
    """A short run on a random part of the pool, whose checkpoints gradient and dynamics scorers read."""

    fraction: Share = 0.05
    epochs: int = Field(4, ge=1, description="One checkpoint is kept per epoch.")
    seed: int = Field(0, ge=0)
    lora: Lora | None = Field(None, description="Default: the model's own, else rank 8, alpha 16 on the attention layers.")
    trainer: str | None = Field(
        None, description="Folder of a Hugging Face Trainer run (its output_dir): its checkpoints are read, and no warm-up of our own is trained."
    )


    @model_validator(mode="after")
    def _fitting(self) -> Self:
        idle = sorted(name for name, field in type(self).model_fields.items() if name != "trainer" and getattr(self, name) != field.default)
        if self.trainer is not None and idle:
            raise ValueError(f"warmup.trainer reads a finished run, so {', '.join(idle)} would do nothing; remove it, or trainer")
        return self


class Train(Optimizer):
    """Fine-tuning of every arm. `match` makes the arms comparable: equal tokens seen, equal steps, or equal epochs.

    `preset: less` or `preset: light` fills in what is not given.
    """

    match: Literal["tokens", "steps", "epochs"] = "tokens"
    pruning: AnyPruning | None = Field(None, description="Visit part of the rows in each epoch: {name: infobatch} or {name: seta}.")
    validation: Share = Field(0.0, lt=1, description="Share of the selected rows that is not trained on; the weights with the lowest loss on it are kept.")
    validate_every: int | None = Field(None, ge=1, description="Steps between validations; default: an epoch.")
    patience: int = Field(3, ge=1, description="Stop after so many validations in a row without a new lowest loss.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints that a killed run resumes from.")

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, value: Any) -> Any:
        return _preset(value, _TRAIN)

    @model_validator(mode="after")
    def _validates(self) -> Self:
        if self.validate_every is not None and not self.validation:
            raise ValueError("train.validate_every does nothing without a validation; add validation: 10%, or remove it")
        return self
