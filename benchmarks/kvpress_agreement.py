"""Do our presses keep the same tokens as kvpress's? Index sets of SnapKV (64 queries, pooling over 5), Knorm and TOVA, head by head.

    python -m venv PEER && PEER/bin/pip install kvpress==0.5.5 transformers==5.2.0 torch
    PEER/bin/python benchmarks/kvpress_agreement.py --write sets.safetensors
    python benchmarks/kvpress_agreement.py --read sets.safetensors

kvpress needs transformers below 5.3, so each side runs in an environment of its own, and nothing of curate is imported in the peer's. It writes the
weights of a random Llama (4 layers, 8 query and 2 key-value heads, float32), prompts of 512 random tokens, and what it kept, found by comparing the keys
in its cache with those of a run without a press. No token comes twice: in the first layer it would have keys of one length, and Knorm a tie. Budgets
are larger than the window: below it, kvpress keeps whichever of the window's tokens its sort leaves first, and we the last.
TOVA is here the window of one query, all heads together, not pooled; kvpress keeps the last token, as we do.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {
    **{"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2},
    **{"head_dim": 32, "max_position_embeddings": 1024},
}
PROMPTS, LENGTH = 8, 512
RATIOS = (0.25, 0.5, 0.75)  # shares that are dropped
OURS: dict[str, dict[str, Any] | str] = {
    "snapkv": {"name": "window", "window": 64, "kernel": 5},
    "knorm": "key_norm",
    "tova": {"name": "window", "window": 1, "pool": "none", "share": "layer"},
}


def write(path: Path) -> None:
    """What kvpress keeps."""
    from kvpress import KnormPress, SnapKVPress, TOVAPress

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    with torch.no_grad():  # larger than at the start of training, so that attention is not flat
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    tokens = torch.stack([torch.randperm(SHAPE["vocab_size"])[:LENGTH] for _ in range(PROMPTS)])
    found: dict[str, Tensor] = {"tokens": tokens, **{f"weight.{name}": tensor.clone() for name, tensor in model.state_dict().items()}}
    for ratio in RATIOS:
        presses = {"snapkv": SnapKVPress(ratio, window_size=64, kernel_size=5), "knorm": KnormPress(ratio), "tova": TOVAPress(ratio)}
        for name, press in presses.items():
            for prompt in range(PROMPTS):
                whole = cached(model, tokens[prompt : prompt + 1])
                with press(model):
                    kept = cached(model, tokens[prompt : prompt + 1])
                found |= {f"kept.{name}.{ratio}.{prompt}.{layer}": places(*keys) for layer, keys in enumerate(zip(whole, kept, strict=True))}
    save_file(found, path)
    print(f"wrote {len(found)} tensors to {path}")


def cached(model: Any, tokens: Tensor) -> list[Tensor]:
    """(Hk, kept, d) keys by layer after a prefill."""
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.no_grad():
        model.model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return [layer.keys[0] for layer in cache.layers]


def places(whole: Tensor, kept: Tensor) -> Tensor:
    """(Hk, B) where the kept keys (Hk, B, d) lie among all (Hk, n, d), ascending; each is there exactly once."""
    same = (kept.unsqueeze(2) == whole.unsqueeze(1)).all(-1)
    if not (same.sum(-1) == 1).all():
        raise SystemExit("a key of the compressed cache is not one of the prefill's keys")
    return same.int().argmax(-1).sort(-1).values


def read(path: Path) -> None:
    """Compare with what curate keeps, and say how often it is the same."""
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    model.load_state_dict({name.removeprefix("weight."): tensor for name, tensor in stored.items() if name.startswith("weight.")})
    for name in OURS:
        different = []
        for prompt, tokens in enumerate(stored["tokens"].tolist()):
            for ratio, layer, ours in kept_by_us(model, tokens, name):
                theirs = stored[f"kept.{name}.{ratio}.{prompt}.{layer}"]
                different += [len(set(mine.tolist()) ^ set(other.tolist())) for mine, other in zip(ours, theirs, strict=True)]
        equal = different.count(0)
        print(json.dumps({"press": name, "sets": len(different), "equal": equal, "different": len(different) - equal, "most tokens apart": max(different)}))


def kept_by_us(model: Any, tokens: list[int], name: str) -> Any:
    """(ratio, layer, (Hk, B) tokens kept) for every ratio and layer."""
    from curate.compression.token_press import TokenPress
    from curate.inference.attention import ours
    from curate.inference.prefill import prefilled
    from curate.model import LanguageModel

    class Press(TokenPress):
        """The importance alone, with uniform budgets."""

        name: str = "press"

    language_model = LanguageModel(model, SimpleNamespace(pad_token_id=0, eos_token_id=1), "cpu", dict(model.named_parameters()))
    with torch.inference_mode(), ours(model):
        prefix, _ = prefilled(language_model, tokens)
        for ratio in RATIOS:
            memory = Press(tokens=int(LENGTH * (1 - ratio)), importance=OURS[name]).compress(prefix)
            for layer, (view, store) in enumerate(zip(prefix.layers, memory.layers, strict=True)):
                yield ratio, layer, places(view.keys, store.tensors[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", type=Path, help="file to write, in the environment of kvpress")
    which.add_argument("--read", type=Path, help="file to compare with, in the environment of curate")
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write)
    else:
        read(arguments.read)


if __name__ == "__main__":
    main()
