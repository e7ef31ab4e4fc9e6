"""What the folder of a low-rank adapter holds, checked before anything of it reaches a model.

A folder of PEFT (adapter_config.json, adapter_model.safetensors), or a checkpoint of curate's own training (weights.safetensors) with the adapters'
settings. Nothing is unpickled, no code of the folder is run. Only adapters that leave the base model's weights and the prompt alone are taken, for
others cannot share one base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError, SafetyError
from curate.json_file import read_foreign
from curate.settings import Lora
from curate.store import canonical, digest

if TYPE_CHECKING:
    from torch import Tensor

# Of adapter_config.json: what decides the numbers, what does not, and which ways to start leave the base model's weights as they are.
_DECIDING = ("r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
             "layers_to_transform", "layers_pattern", "lora_bias", "fan_in_fan_out", "alora_invocation_tokens")
_INERT = {"auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "init_lora_weights", "lora_dropout", "megatron_core", "peft_type"}
_INERT |= {"bias", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"}
_KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
_SETS = ("target_modules", "exclude_modules")  # in whatever order PEFT wrote them
_OFF: tuple[Any, ...] = (None, False, [], {}, "")
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterFolder:
    """One adapter on the disk: `settings` are those of peft.LoraConfig, `file` holds its tensors."""

    file: Path
    settings: Mapping[str, Any]

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on an activated adapter acts; empty for one that acts everywhere."""
        return tuple(self.settings.get("alora_invocation_tokens") or ())

    def config(self) -> Any:
        """For PEFT. An activated adapter is described as a plain one: whoever runs it gives it those tokens alone that it acts on."""
        import peft

        given = {name: value for name, value in self.settings.items() if name != "alora_invocation_tokens"}
        try:
            return peft.LoraConfig(**given, task_type="CAUSAL_LM", inference_mode=True, init_lora_weights=False)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self.file.parent} describes no LoRA adapter ({' '.join(str(error).split())}); copy the adapter again") from error

    def read(self) -> "dict[str, Tensor]":
        """All tensors by saved name, on the CPU; ModelError where one is not of finite floats."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(str(self.file))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{self.file} cannot be read ({error}); copy the adapter again") from error
        for name, tensor in tensors.items():
            if not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all())):
                raise ModelError(f"{self.file} is damaged: {name} holds NaN, infinity or whole numbers; copy the adapter again, or use an earlier checkpoint")
        return tensors

    def fingerprint(self, tensors: "Mapping[str, Tensor]") -> str:
        """The hash of its tensors and of the settings that decide what is computed with them, wherever the folder lies."""
        import torch

        settings = {name: sorted(value) if name in _SETS and isinstance(value, list) else value for name, value in self.settings.items() if value not in _OFF}
        parts = []
        for name, tensor in sorted(tensors.items()):
            raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            parts.append([name, str(tensor.dtype), list(tensor.shape), digest(raw)])
        return digest(canonical([settings, parts]))


def adapter_folder(path: Path, lora: Lora | None = None) -> AdapterFolder:
    """The adapter in a folder; `lora` describes those of curate's own checkpoints. ModelError for what is no adapter, or none of the kinds taken."""
    if not path.is_dir():
        raise ModelError(f"{path} {'is a file' if path.exists() else 'does not exist'}; give the folder of an adapter, with adapter_config.json")
    if (path / "adapter_config.json").is_file():
        return _of_peft(path)
    if (path / "weights.safetensors").is_file():
        return _of_training(path / "weights.safetensors", lora)
    raise ModelError(f"{path} is not an adapter: it has neither adapter_config.json nor weights.safetensors; give a folder that PEFT or curate saved")


def _of_peft(path: Path) -> AdapterFolder:
    file = path / "adapter_config.json"
    config = read_foreign(file, dict, "copy the adapter again")
    _check_kind(config, file)
    if not (path / "adapter_model.safetensors").is_file():
        if list(path.glob("adapter_model.*")):
            raise SafetyError(f"{path} holds pickled weights, which are refused; save the adapter again with safe_serialization=True")
        raise ModelError(f"{path} has no adapter_model.safetensors; copy the adapter again")
    return AdapterFolder(path / "adapter_model.safetensors", {name: config[name] for name in _DECIDING if name in config})


def _check_kind(config: Mapping[str, Any], file: Path) -> None:
    """ModelError for adapters of other kinds, and for LoRA with additions that change the base model or that were not tried."""
    kind = config.get("peft_type")
    if kind != "LORA":
        prompts = isinstance(kind, str) and kind.endswith(("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"))
        why = "adds to the prompt, so that its tokens are no longer the plan's" if prompts else "is no LoRA"
        raise ModelError(f"{file}: peft_type {kind!r} {why}; variants of one base are LORA adapters, so merge this one and evaluate it as a model of its own")
    extra = {name: value for name, value in config.items() if name not in {*_DECIDING, *_INERT} and value not in _OFF}
    if config.get("bias") not in ("none", None):
        extra["bias"] = config["bias"]
    if config.get("init_lora_weights") not in _KEEPS_BASE:
        extra["init_lora_weights"] = config["init_lora_weights"]
    if extra:
        name, value = sorted(extra.items())[0]
        raise ModelError(f"{file}: {name} is {value!r}, with which an adapter cannot share its base model; merge it and evaluate it as a model of its own")
    tokens = config.get("alora_invocation_tokens")
    if tokens and not (isinstance(tokens, list) and all(isinstance(token, int) and token >= 0 for token in tokens)):
        raise ModelError(f"{file}: alora_invocation_tokens is {tokens!r}, not a list of tokens; copy the adapter again")


def _of_training(file: Path, lora: Lora | None) -> AdapterFolder:
    adapted = _adapted(file)
    if not adapted:
        raise ModelError(f"{file} holds no adapters but a fine-tune of all weights; load it as a model of its own")
    if lora is None:
        raise ModelError(f"{file} holds adapters without their settings; give `lora`, the model's setting in the recipe")
    return AdapterFolder(file, {"r": lora.r, "lora_alpha": lora.alpha, "target_modules": adapted})


def _adapted(file: Path) -> Sequence[str]:
    """The layers that have adapters in a checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); copy the checkpoint again") from error
    return sorted(name.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight"))
