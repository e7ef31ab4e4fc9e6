"""Checkpoints of a Hugging Face Trainer run, read into what curate's own warm-up leaves: weights, Adam's moments, constants.

A `checkpoint-N/` holds the weights (adapter_model.safetensors of a LoRA run, or model.safetensors, whole or in shards),
optimizer.pt (FSDP: optimizer.bin), scheduler.pt and trainer_state.json. Nothing is unpickled. optimizer.pt numbers its
parameters instead of naming them: the Trainer of transformers 5.24 orders those with weight decay as the model does,
then those without. That order is followed here, and every shape compared.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError, SafetyError
from curate.json_file import read_foreign
from curate.settings import Lora
from curate.store import canonical, digest, file_digest
from curate.torch_file import AdamwState, read_adamw, read_torch

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

Run = Path | Sequence[Path]  # an output_dir, or checkpoint folders of one run
Json = dict[str, Any]

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
# Of adapter_config.json: what is read, what only says where the adapters lie, and what changes no number.
_READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "init_lora_weights", "bias"}
_PLACES = {"layers_to_transform", "layers_pattern", "exclude_modules"}
_INERT = {"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core", "revision", "task_type"}
_INERT |= {"peft_version", "qalora_group_size", "eva_config", "runtime_config"}
_KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # the other ways to start change the base model's weights


def trainer_checkpoints(run: Run) -> list[Path]:
    """The checkpoint folders of a run, first to last by their steps; ModelError if there are none, or one is incomplete."""
    folders = [path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal()] if isinstance(run, Path) else list(run)
    if not folders:
        raise ModelError(f"{run} has no checkpoint-N folders; give the Trainer's output_dir, or a list of its checkpoint folders")
    steps = {folder: _history(folder)[0] for folder in folders}
    if len(set(steps.values())) != len(folders):
        raise ModelError(f"two of the checkpoints ({', '.join(map(str, folders))}) are of one step; give each once, of one run")
    return sorted(folders, key=lambda folder: steps[folder])


def fingerprint(run: Run) -> str:
    """The hash of all files that `convert` and `lora_of` read of these checkpoints, wherever the folders lie."""
    read = []
    for folder in trainer_checkpoints(run):
        others = [folder / name for name in ("trainer_state.json", "scheduler.pt", "adapter_config.json", "model.safetensors.index.json")]
        files = [*_weight_files(folder), _optimizer_file(folder), *(file for file in others if file.is_file())]
        read.append([[file.name, file_digest(file)] for file in sorted(files)])
    return digest(canonical(read))


def lora_of(folder: Path) -> Lora | None:
    """The adapters of this checkpoint as curate's own setting; None for a fine-tune of all weights.

    A plain list of layer names stays as it is. A regular expression, a path or a choice of layers becomes the list of the
    layers that have an adapter in the file. use_rslora's alpha / sqrt(r) becomes alpha sqrt(r) / r. ModelError for what
    low-rank matrices on linear layers cannot say, such as DoRA, trained biases, or a rank of its own for some layer.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    config = _json(file)
    unread = {name: value for name, value in config.items() if name not in _READ | _PLACES | _INERT and value not in (None, False, [], {}, "")}
    unread |= {name: config.get(name) for name, plain in (("peft_type", ("LORA",)), ("bias", ("none", None))) if config.get(name) not in plain}
    if config.get("init_lora_weights") not in _KEEPS_BASE:
        unread["init_lora_weights"] = config["init_lora_weights"]
    if unread:
        name, value = sorted(unread.items())[0]
        raise ModelError(f"{file}: {name} is {value!r}, which curate's adapters do not have; use a run with plain LoRA, or score with another model")
    try:
        rank, alpha = config["r"], float(config["lora_alpha"])
        scaled = alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
        return Lora(r=rank, alpha=scaled, dropout=float(config.get("lora_dropout", 0.0)), targets=_targets(config, folder))
    except (LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{file} describes no LoRA adapter ({' '.join(str(error).split())}); copy the checkpoint again") from error


def convert(folder: Path, model: "LanguageModel", *, previous: Path | None) -> dict[str, bytes]:
    """weights.safetensors, moments.safetensors and state.json: a `core.Checkpoint` of this checkpoint, to be written by the store.

    `previous` is the checkpoint before it, None for the first. The learning rate is the mean of what trainer_state.json
    logged for the steps since then; where logging_steps passes over some of these, the mean of the others. Where it passes
    over all, the rate is taken to go in a straight line between those that the two scheduler.pt keep (before the first
    checkpoint: from the peak), which is exact for a linear decay without warm-up. Transformers before 4.51 logged the rate
    of the step that follows. `step` counts what the optimizer took; half precision may skip a few of the Trainer's steps.

    ModelError: a weight or moment is missing, too many, of another shape or not finite, or the optimizer was not AdamW.
    An optimizer made by hand, in an order of its own but with groups and shapes like the Trainer's, cannot be told apart.
    """
    from safetensors.torch import save

    step, logged = _history(folder)
    start = _history(previous)[0] if previous else 0
    if start >= step:
        raise ModelError(f"{previous} (step {start}) does not come before {folder} (step {step}); give the checkpoints in order, of one run")
    _check_adapters(folder, model)
    weights = _weights(folder, model)
    file = _optimizer_file(folder)
    moments, constants = _moments(file, model)
    if not 1 <= constants["step"] <= step:
        raise ModelError(f"{file} took {constants['step']} steps but {folder / 'trainer_state.json'} {step}; copy the checkpoint again")
    seen = [rate for at, rate in logged.items() if start < at <= step]
    constants["learning_rate"] = math.fsum(seen) / len(seen) if seen else _between(folder, previous, step - start)
    if not 0 < constants["learning_rate"] < math.inf:
        raise ModelError(f"{folder}: the mean learning rate from step {start} to {step} is {constants['learning_rate']}; leave it out, or log more often")
    return {"weights.safetensors": save(weights), "moments.safetensors": save(moments), "state.json": canonical(constants)}


def _json(file: Path) -> Json:
    return read_foreign(file, dict, "copy the checkpoint again")


def _history(folder: Path) -> tuple[int, dict[int, float]]:
    """The step of a checkpoint, and the learning rates logged until then by step."""
    file = folder / "trainer_state.json"
    state = _json(file)
    try:
        logged = {int(entry["step"]): float(entry["learning_rate"]) for entry in state["log_history"] if "learning_rate" in entry}
        step = int(state["global_step"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{file} holds no step and log of a Trainer ({error!r}); copy the checkpoint again") from error
    if step < 1:
        raise ModelError(f"{file} is of step {step}, before any training; leave this checkpoint out")
    return step, logged


def _between(folder: Path, previous: Path | None, steps: int) -> float:
    """The mean of `steps` rates on the straight line from the one after `previous` to the one after `folder`."""
    first = _stored_rate(previous, "_last_lr") if previous else _stored_rate(folder, "base_lrs")
    last = _stored_rate(folder, "_last_lr")
    return first + (last - first) * (steps - 1) / (2 * steps)


def _stored_rate(folder: Path, name: str) -> float:
    saved = read_torch(folder / "scheduler.pt") if (folder / "scheduler.pt").is_file() else None
    rates = saved.get(name) if isinstance(saved, dict) else None
    if not (isinstance(rates, list) and rates and isinstance(rates[0], int | float)):
        raise ModelError(f"{folder} neither logged a learning rate since the checkpoint before nor keeps one in scheduler.pt; lower logging_steps")
    return float(rates[0])


def _weight_files(folder: Path) -> list[Path]:
    """Where the trained weights lie; a shard's name may not lead out of the folder."""
    index = folder / "model.safetensors.index.json"
    names = ["adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model.safetensors"]
    if names == ["model.safetensors"] and not (folder / names[0]).is_file() and index.is_file():
        shards = _json(index).get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise SafetyError(f"{index} names {outside[0]}, a file outside of {folder}")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent or not names:
        raise ModelError(f"{folder} has no {absent[0] if absent else 'shards'}; pickled weights (.bin) and the shards of FSDP and DeepSpeed are refused")
    return [folder / name for name in names]


def _optimizer_file(folder: Path) -> Path:
    for name in ("optimizer.pt", "optimizer.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} has no optimizer.pt: train with optim: adamw_torch, save_only_model: false, no DeepSpeed, and FSDP's FULL_STATE_DICT")


def _load(file: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); copy the checkpoint again") from error


def _targets(config: Json, folder: Path) -> list[str]:
    """The layers that have adapters: the names in the configuration where that is a list of them, else those in the weights."""
    listed = config.get("target_modules")
    if isinstance(listed, list) and not any("." in str(name) for name in listed) and not any(config.get(place) for place in _PLACES):
        return sorted(map(str, listed))
    names = [name for file in _weight_files(folder) for name in _load(file) if name.endswith(".lora_A.weight")]
    return sorted(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for name in names)


def _check_adapters(folder: Path, model: "LanguageModel") -> None:
    """The adapters' scale is in no tensor, so it is compared by itself."""
    lora, given = lora_of(folder), getattr(model.model, "peft_config", {}).get("default")
    wanted = (lora.r, lora.alpha) if lora else None
    if wanted != ((given.r, given.lora_alpha) if given else None):
        has = f"adapters of rank {given.r} and alpha {given.lora_alpha:g}" if given else "no adapters"
        raise ModelError(f"{folder} trained {f'adapters of rank {wanted[0]} and alpha {wanted[1]:g}' if wanted else 'all weights'}, but the model has {has}")


def _known_as(model: "LanguageModel") -> dict[str, str]:
    """The saved name of every name that a trained parameter goes by; tied weights have several."""
    saved = {id(parameter): name for name, parameter in model.names.items()}
    every = model.model.named_parameters(remove_duplicate=False)
    return {name: saved[id(parameter)] for name, parameter in every if id(parameter) in saved} | {name: name for name in model.names}


def _check(name: str, tensor: Any, model: "LanguageModel", file: Path) -> None:
    import torch

    shape = tuple(model.names[name].shape)
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tuple(tensor.shape) != shape:
        found = f"a {tensor.dtype} of shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise ModelError(f"{file} does not belong to this model: {name} is {found}, expected floats of shape {shape}")
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{file} holds NaN or infinity in {name}: the run diverged; use an earlier checkpoint")


def _weights(folder: Path, model: "LanguageModel") -> "dict[str, Tensor]":
    import torch

    known, buffers = _known_as(model), dict(model.model.named_buffers())
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        for saved, tensor in _load(file).items():
            name = known.get(saved)
            if name is None and saved not in buffers:
                raise ModelError(f"{file} does not belong to this model: it holds {saved}, which training this model does not change")
            if name is not None:
                _check(name, tensor, model, file)
                if not torch.equal(weights.setdefault(name, tensor), tensor):
                    raise ModelError(f"{file}: {saved} differs from the weights that it is tied to; use a model whose weights are not tied")
    absent = sorted(set(model.names) - set(weights))
    if absent:
        raise ModelError(f"{folder} does not belong to this model: it has no weights of {absent[0]}")
    return weights


def _moments(file: Path, model: "LanguageModel") -> tuple["dict[str, Tensor]", Json]:
    """`first.<name>` and `second.<name>` as they were saved; the optimizer's constants, and how many steps it took."""
    import torch

    saved, known = read_adamw(file), _known_as(model)
    names = [known.get(name, name) for name in _names(saved, model, file)]
    odd = sorted(set(names) ^ set(model.names))
    if odd or len(names) != len(set(names)):
        what = f"{'no moments of' if odd[0] in model.names else 'moments of'} {odd[0]}" if odd else "moments of one parameter twice"
        raise ModelError(f"{file} does not belong to this model: it has {what}; the run must train just what training this model changes")
    tensors: dict[str, Tensor] = {}
    for name, moments in zip(names, saved.moments, strict=True):
        for kind, part in (("first", "exp_avg"), ("second", "exp_avg_sq")):
            _check(name, moments[part], model, file)
            tensors[f"{kind}.{name}"] = moments[part].clone(memory_format=torch.contiguous_format)
    return tensors, dict(saved.constants)


def _names(saved: AdamwState, model: "LanguageModel", file: Path) -> Sequence[str]:
    """The name of every parameter: what the file says, or what stands at its number in the Trainer's order."""
    if saved.names is not None:
        return saved.names
    order = [part for part in _trainer_order(model) if part]
    sizes = [len(part) for part in order]
    if list(saved.sizes) != sizes:
        raise ModelError(
            f"{file} numbers its parameters, in groups of {list(saved.sizes)}, but the Trainer's groups for this model are {sizes}: "
            "give the run's own model and adapters; an optimizer that was made by hand must be given named parameters"
        )
    return [name for part in order for name in part]


def _trainer_order(model: "LanguageModel") -> tuple[list[str], list[str]]:
    """The saved names of the trained parameters with weight decay and of those without, as Trainer.create_optimizer groups them."""
    from torch import nn

    saved = {id(parameter): name for name, parameter in model.names.items()}
    norms = tuple(f"{name}." for name, module in model.model.named_modules() if isinstance(module, nn.LayerNorm))
    decayed: list[str] = []
    others: list[str] = []
    for name, parameter in model.model.named_parameters():
        if id(parameter) in saved:
            (others if name.startswith(norms) or _NO_DECAY.search(name.lower()) else decayed).append(saved[id(parameter)])
    return decayed, others
