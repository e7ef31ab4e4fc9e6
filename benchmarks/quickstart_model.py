"""Pretrain the tiny Llama that the quickstart ships, on skills that check themselves and on prose.

    python benchmarks/quickstart_model.py configs/quickstart_model

trains it, prints its validation loss and what it can do, and writes the folder; without a folder nothing is kept.
The model sees every skill of the generated pool except the two of the target, in the chat format. Prompts count for
less in the loss than answers, since most of a prompt is drawn at random. Rows are generated as they are needed. About
six minutes on two idle cores. Other versions of torch round differently and give other weights: look at the skill
`topic` in what is printed, which the target skills build on and which comes late (1.00 here, 0.53 at a rate of 5e-3).
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from curate.data.skills import SKILLS
from curate.data.synthetic import generator_for
from curate.data.vocabulary import prose

SEED, STEPS, BATCH, LEARNING_RATE, VOCABULARY = 0, 4500, 64, 3e-3, 1024
PROSE_SHARE, PROMPT_WEIGHT, GROUP = 0.15, 0.2, 32  # GROUP batches are sorted by length together, so that little is padding
SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CARD = """A Llama of {parameters:,} parameters for the quickstart of curate, made by `python benchmarks/quickstart_model.py configs/quickstart_model` alone: \
byte-level BPE of {vocabulary} entries and {steps} AdamW steps of {batch} generated rows (seed {seed}; {skills} self-checking skills and prose, \
in the chat format, a prompt token weighing {weight} of an answer token). It has never seen the two target skills of the quickstart's pool. \
Validation loss {loss:.3f} nats per token on fresh rows. It knows nothing about the world: use it to try curate, not to talk to.
"""


def row(purpose: str, number: int) -> tuple[str, str]:
    """The prompt and the completion of one row of this purpose's endless stream."""
    generator = generator_for(SEED, "pretrain", purpose, number)
    if generator.random() < PROSE_SHARE:
        return prose(generator), prose(generator)
    return SKILLS[int(generator.integers(len(SKILLS)))].example(generator)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((text for number in range(20_000) for text in row("tokenizer", number)), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, additional_special_tokens=special[3:], **SPECIAL)
    made.chat_template = TEMPLATE
    return made


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str | None = None) -> list[int]:
    """The token ids of one row, or of its prompt alone with the turn handed to the assistant."""
    turns = [{"role": "user", "content": prompt}]
    if completion is not None:
        turns.append({"role": "assistant", "content": completion})
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=completion is None)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def batches(tokenizer: PreTrainedTokenizerFast, purpose: str, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded ids and the weight of each token in the loss; rows of like length together, batches in random order."""
    assistant = encode(tokenizer, "")[-1]
    for start in range(0, count, GROUP):
        size = min(GROUP, count - start)
        rows = sorted((encode(tokenizer, *row(purpose, number)) for number in range(start * BATCH, (start + size) * BATCH)), key=len)
        for index in generator_for(SEED, "order", purpose, start).permutation(size):
            chosen = [torch.tensor(ids) for ids in rows[index * BATCH : (index + 1) * BATCH]]
            ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=int(tokenizer.pad_token_id))
            handed_over = torch.eq(ids, assistant).int()
            answer = handed_over.cumsum(1) > handed_over
            yield ids, torch.where(answer, 1.0, PROMPT_WEIGHT) * torch.ne(ids, int(tokenizer.pad_token_id))


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy in nats per token; right padding needs no mask under causal attention."""
    logits = model(input_ids=ids, use_cache=False).logits
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses @ weights[:, 1:].flatten() / weights[:, 1:].sum()


def pretrain(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """AdamW with 2 % warm-up and a cosine to a twentieth of the peak."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    shape = lambda step: min((step + 1) / (0.02 * STEPS), 0.525 + 0.475 * math.cos(math.pi * step / STEPS))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    started = time.perf_counter()
    for step, (ids, weights) in enumerate(batches(tokenizer, "train", STEPS)):
        loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.perf_counter() - started:.0f} s", flush=True)
    model.eval()
    return model


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: int = 40) -> dict[str, float]:
    """Share of fresh prompts of each skill whose right completion is what greedy decoding would write."""
    result = {}
    for skill in SKILLS:
        right = 0
        for number in range(rows):
            prompt, completion = skill.example(generator_for(SEED, "check", skill.name, number))
            given, ids = len(encode(tokenizer, prompt)), torch.tensor([encode(tokenizer, prompt, completion)])
            right += torch.equal(model(input_ids=ids).logits[0, given - 1 : -1].argmax(-1), ids[0, given:])
        result[skill.name] = right / rows
    return result


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, loss: float) -> None:
    """The folder as it ships: no trace of the machine, nothing that a loader must execute."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved for its owner alone, but it ships
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key != "name_or_path"} | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    made = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "steps": STEPS,
        "batch": BATCH,
        "seed": SEED,
        "skills": len(SKILLS),
        "weight": PROMPT_WEIGHT,
    }
    (folder / "README.md").write_text(CARD.format(loss=loss, **made))


def main(folder: Path | None) -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer()
    model = pretrain(tokenizer)
    with torch.no_grad():
        loss = float(np.mean([loss_of(model, *batch).item() for batch in batches(tokenizer, "validation", 16)]))
    print(f"{model.num_parameters():,} parameters, validation loss {loss:.4f} nats per token, weighted as in training")
    for skill, share in accuracy(model, tokenizer).items():
        print(f"  {skill:<10} {share:.2f}")
    if folder:
        save(model, tokenizer, folder, loss)
        print(f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
