"""Layouts that trainers read, each with a snippet to start from.

datasets        the fields of the pool, in parquet
trl             prompt + completion where every row is one exchange, else messages, or text; parquet
llama-factory   alpaca columns where every row is one exchange, else messages; JSON lines and dataset_info.json
axolotl         messages for chat_template, or text for completion; JSON lines and an entry of `datasets:`
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import yaml

from curate.core import Turns
from curate.errors import ExportError

Layout = Literal["datasets", "trl", "llama-factory", "axolotl"]
Kind = Literal["exchange", "messages", "text"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
JSON_LINES = ("llama-factory", "axolotl")


def kind_of(said: Sequence[Turns], ids: Sequence[str]) -> Kind:
    """What all rows are: one exchange each, conversations, or plain text; ExportError where they differ, or where there is no text."""
    forms: dict[str, str] = {}
    for turns, name in zip(said, ids, strict=True):
        roles = "".join(role[:1] for role, _ in turns)
        forms.setdefault("tokens" if not turns else "text" if turns[0][0] == "" else "exchange" if roles in ("ua", "sua") else "messages", name)
    if "tokens" in forms:
        raise ExportError(f"row {forms['tokens']!r} came as token ids and says no text; use --format datasets")
    if "text" in forms and len(forms) > 1:
        raise ExportError(f"row {forms['text']!r} is plain text and others are conversations; export them apart, or use --format datasets")
    return "messages" if "messages" in forms else "exchange" if "exchange" in forms else "text"


def shaped(layout: Layout, kind: Kind, turns: Turns) -> dict[str, Any]:
    """One row's columns in this layout."""
    if kind == "text":
        return {"text": turns[0][1]}
    messages = [{"role": role, "content": content} for role, content in turns]
    if layout == "trl" and kind == "exchange":
        return {"prompt": messages[:-1], "completion": messages[-1:]}
    if layout == "llama-factory" and kind == "exchange":
        system = turns[0][1] if turns[0][0] == "system" else ""
        return {"instruction": turns[-2][1], "input": "", "output": turns[-1][1], "system": system}
    return {"messages": messages}


def companions(layout: Layout, kind: Kind, files: Sequence[tuple[str, str]], model: str) -> dict[str, str]:
    """The files beside the data: the trainer's snippet first. `files` are (configuration, its data file)."""
    if layout == "trl":
        return {"train_trl.py": _trl(kind, files[0][0], model)}
    if layout == "llama-factory":
        entries = json.dumps({name: _entry(kind, path) for name, path in files}, indent=2)
        return {"train_llama_factory.yaml": _llama_factory(kind, files[0][0], model), "dataset_info.json": entries + "\n"}
    if layout == "axolotl":
        return {"train_axolotl.yaml": _axolotl(kind, files[0][1], model)}
    return {}


def language(name: str) -> str:
    """How a companion's text is to be coloured."""
    return "python" if name.endswith(".py") else "yaml"


def _trl(kind: Kind, config: str, model: str) -> str:
    masked = {"exchange": "completion_only_loss=True", "messages": "assistant_only_loss=True", "text": ""}[kind]
    note = "  # the chat template must mark what the assistant says with {% generation %}" if kind == "messages" else ""
    named = "" if config == "default" else f", {config!r}"
    columns = {"exchange": ["prompt", "completion"], "messages": ["messages"], "text": ["text"]}[kind]
    return (
        "from pathlib import Path\n\n"
        "from datasets import load_dataset\n"
        "from trl import SFTConfig, SFTTrainer\n\n"
        f'rows = load_dataset(str(Path(__file__).parent){named}, split="train").select_columns({json.dumps(columns)})\n'
        f'settings = SFTConfig(output_dir="trained"{", " + masked if masked else ""}){note}\n'
        f"SFTTrainer(model={model!r}, args=settings, train_dataset=rows).train()\n"
    )


def _entry(kind: Kind, path: str) -> dict[str, Any]:
    if kind == "text":
        return {"file_name": path, "columns": {"prompt": "text"}}
    if kind == "exchange":
        return {"file_name": path, "formatting": "alpaca", "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    return {"file_name": path, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}


def _llama_factory(kind: Kind, config: str, model: str) -> str:
    settings = {
        "model_name_or_path": model,
        "stage": "pt" if kind == "text" else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset_dir": ".",
        "dataset": config,
        "cutoff_len": 2048,
        "output_dir": "trained",
    }
    # Without `template` the trainer takes the tokenizer's own chat template.
    return f"# Start it in this folder: llamafactory-cli train train_llama_factory.yaml\n{yaml.safe_dump(settings, sort_keys=False)}"


def _axolotl(kind: Kind, path: str, model: str) -> str:
    read: dict[str, Any] = {"path": path, "ds_type": "json", "split": "train"}
    if kind == "text":
        read |= {"type": "completion", "field": "text"}
    else:
        mapped = {"role": "role", "content": "content"}
        read |= {"type": "chat_template", "field_messages": "messages", "message_property_mappings": mapped, "roles_to_train": ["assistant"]}
    settings = {"base_model": model, "datasets": [read], "adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
    settings |= {"sequence_len": 2048, "micro_batch_size": 1, "num_epochs": 1, "learning_rate": 0.0002, "output_dir": "trained"}
    return f"# Start it in this folder: axolotl train train_axolotl.yaml\n{yaml.safe_dump(settings, sort_keys=False)}"
