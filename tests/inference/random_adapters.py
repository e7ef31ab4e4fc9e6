"""PEFT folders of adapters with random weights, and PEFT's own model of one adapter, for the tests of variants."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from curate.testing.random_models import Architecture, random_model

ATTENTION = {"gpt_neox": ["query_key_value"]}


def save_adapter(folder: Path, seed: int = 1, *, architecture: Architecture = "llama", **config: Any) -> Path:
    """A LoRA adapter whose two matrices are random, so that it changes what the model says."""
    settings = {"r": 4, "target_modules": ATTENTION.get(architecture, ["q_proj", "k_proj", "v_proj"]), "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = random_model(architecture).model
        torch.manual_seed(seed)
        peft.get_peft_model(model, peft.LoraConfig(**settings | config)).save_pretrained(str(folder))
    return folder


def loaded_alone(folder: Path | None, *, architecture: Architecture = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A newly made base with this adapter alone, as PEFT loads it; None: the base."""
    model = random_model(architecture).model.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model if folder is None else peft.PeftModel.from_pretrained(model, str(folder)).eval()


def changed(folder: Path, to: Path, **values: Any) -> Path:
    """A copy with other values in adapter_config.json."""
    shutil.copytree(folder, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return to


def logits(model: Any) -> torch.Tensor:
    """What it says to one sequence."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(2, 40).unsqueeze(0)).logits
    return found
