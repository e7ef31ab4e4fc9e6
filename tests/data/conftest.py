"""Small byte-level tokenizers, and a run from rows to examples in a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.data.load import load
from curate.data.source import Source
from curate.data.template import Encoder
from curate.data.writer import write_examples

CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CORPUS = ["What is the capital of France? The capital is Paris.", "User: one\nAssistant: two\n", "assistant user system tool", "  spaced   out  text  "]


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A byte-level BPE tokenizer with the special tokens <|start|>, <|end|> and <s>, and the template given."""

    def make(template: str | None = None, *, bos: bool = False, **tokens: str) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|start|>", "<|end|>", "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        backend.train_from_iterator(CORPUS, trainer)
        if bos:
            backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
        made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", additional_special_tokens=["<|start|>"], bos_token="<s>", **tokens)
        made.chat_template = template
        return made

    return make


@pytest.fixture(scope="session")
def encoder(make_tokenizer: Callable[..., Any]) -> Encoder:
    """A ChatML encoder whose template marks the answers."""
    return Encoder.of(make_tokenizer(CHATML), 512)


@pytest.fixture
def prepare(tmp_path: Path, encoder: Encoder) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Writes the examples of sources into a new folder; the folder and the summary."""
    made = iter(range(1000))

    def run(*sources: Source, folder: Path = tmp_path, with_encoder: Any = encoder, **options: Any) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / f"examples-{next(made)}"
        out.mkdir()
        reading = {key: options.pop(key) for key in ("on_bad_row",) if key in options}
        summary = write_examples(load(sources, folder, **reading), with_encoder, lambda name, data: (out / name).write_bytes(data), **options)
        return out, summary

    return run


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[str, list[Any]], Source]:
    """Writes rows as JSON lines; the source that reads them."""

    def write(name: str, rows: list[Any], **fields: Any) -> Source:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
        return Source(path=name, **fields)

    return write
