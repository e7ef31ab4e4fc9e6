"""Small models with random weights, in the shapes that engines and presses are checked on."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from curate.model import LanguageModel

Architecture = Literal["llama", "llama_one_kv_head", "qwen2", "gpt_neox"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "llama_one_kv_head", "qwen2", "gpt_neox")
VOCABULARY = 97


def random_model(architecture: Architecture = "llama", *, layers: int = 3, seed: int = 0, device: str = "cpu") -> "LanguageModel":
    """A causal language model of width 64 with 4 query heads, in float32; its tokenizer knows only the ids of padding and of the end of text."""
    import torch
    import transformers as t

    from curate.model import LanguageModel

    common: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": 4}
    torch.manual_seed(seed)
    if architecture == "gpt_neox":
        model: Any = t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**common))
    elif architecture == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(num_key_value_heads=2, **common))
    else:
        heads = 1 if architecture == "llama_one_kv_head" else 2
        model = t.LlamaForCausalLM(t.LlamaConfig(num_key_value_heads=heads, head_dim=16, **common))
    with torch.no_grad():  # larger than at the start of training, so that attention is not flat
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    names = dict(model.named_parameters())
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1, all_special_ids=[0, 1])
    return LanguageModel(model.eval().to(device), tokenizer, device, names)
