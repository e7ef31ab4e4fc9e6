"""Presses on a prefix that several questions share, as SCBench asks: bytes, fidelity to the exact cache and speed, all in one process.

    python benchmarks/presses.py MODEL TEXTS... [--context 1024] [--prefixes 4] [--keep 0.25 0.5] [--questions 8] [--tokens 32] [--device cpu] [--out FILE.json]
    python benchmarks/presses.py random-1b --context 4096 --device cuda --dtype bfloat16

TEXTS are .parquet, .jsonl or .txt files; of a table the column with the longest strings is read. Prefixes are the longest texts, cut; presses that are
calibrated are so on the next 8. Each prefix is prefilled once and compressed once, before any question is known; then all questions are scored behind it:
half of them the stretches of text that follow, half (`copied`) stretches of the prefix itself, which have to be looked up. A question's first token is
given: what comes before it is exact for all presses but fastkv, so it would flatter them. Columns: bytes held after compression, of one sequence, and their
share of the exact cache's in the same dtype; mean |difference of log-likelihood| per token; mean KL in nats from the exact distribution of the next token
to the lossy one, of all questions and of the copied ones; share of tokens whose likeliest successor is the same; seconds to compress (fastkv: to prefill,
too); decoded tokens a second, greedy, 64 tokens, for 1 answer and for 8 behind the first prefix. Presses that go on evicting decode answers as the engine does.
Seconds are process CPU seconds on one thread, or seconds on a GPU, the least of all prefixes or repeats. `random-1b` is a Llama of 1.2 billion random
numbers on random tokens, and its fidelity would mean nothing: only bytes and speed are printed.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from shared_prefixes import loaded, random_1b

from curate.compression.prefix import Prefix
from curate.errors import ModelError
from curate.inference.attention import ours
from curate.inference.decoding import Decoding
from curate.inference.growing import Decodes, Forgetting, Growing, side_by_side
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.prefill import prefilled
from curate.inference.stores import Memory, Plain
from curate.interfaces import Press, State
from curate.model import LanguageModel
from curate.registry import component, names

CALIBRATION = 8  # texts
DECODED = 64  # tokens of an answer
TOGETHER = 8  # answers behind one prefix
BITS = (2, 4)


@dataclass
class Row:
    """One press, what it needs to know of the model, and what was measured of it."""

    label: str
    press: Press | None  # None for the exact cache
    state: State | None = None
    nbytes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: list[torch.Tensor] = field(default_factory=list)  # (Q, T - 1) |d log-likelihood| by prefix
    divergences: list[torch.Tensor] = field(default_factory=list)
    agreements: list[torch.Tensor] = field(default_factory=list)
    speeds: dict[int, float] = field(default_factory=dict)  # tokens a second by how many answers

    def numbers(self, exact: int, copied: int) -> dict[str, Any]:
        """What is printed and written: `exact` bytes are the whole cache's, the last `copied` questions are copied."""
        size = float(np.mean(self.nbytes))
        found: dict[str, Any] = {"label": self.label, "press": self.press.name if self.press else None, "bytes": size, "share": size / exact}
        if self.errors:
            divergence = torch.stack(self.divergences)
            found |= {"nats": float(torch.stack(self.errors).mean()), "kl": float(divergence.mean()), "kl_copied": float(divergence[:, -copied:].mean())}
            found["agreement"] = float(torch.stack(self.agreements).double().mean())
        if self.seconds:
            found["compress_seconds"] = min(self.seconds)
        return found | {f"tokens_per_second_{answers}": speed for answers, speed in self.speeds.items()}


def texts_of(path: Path) -> list[str]:
    """The distinct texts of a file."""
    if path.suffix == ".txt":
        return [path.read_text(encoding="utf-8")]
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    columns = {name: table[name].dropna() for name in table if table[name].map(lambda value: isinstance(value, str) or value is None).all()}
    if not columns:
        raise SystemExit(f"{path} has no column of strings")
    longest = max(columns, key=lambda name: columns[name].str.len().mean())
    return list(dict.fromkeys(columns[longest]))


def stretches(texts: Sequence[str], tokenizer: Any, length: int, count: int) -> list[list[int]]:
    """`count` stretches of tokens of distinct texts, the longest first; texts that are too short are put one after another."""
    found: list[list[int]] = []
    joined: list[int] = []
    for text in sorted(texts, key=len, reverse=True):
        joined += tokenizer(text).input_ids
        if len(joined) >= length:
            found.append(joined[:length])
            joined = []
        if len(found) == count:
            return found
    raise SystemExit(f"the texts give {len(found)} of the {count} stretches of {length} tokens that are needed; give more, or lower --context")


def questions_of(stretch: Sequence[int], context: int, count: int, tokens: int) -> list[list[int]]:
    """Half of them what follows the context, then those that are copied from inside it, from its beginning to its end."""
    copied = count // 2
    starts = [context + i * tokens for i in range(count - copied)] + [int((context - tokens) * (i + 0.5) / copied) for i in range(copied)]
    return [list(stretch[start : start + tokens]) for start in starts]


def settings(keeps: Sequence[float], context: int) -> Iterator[tuple[str, Press]]:
    """Every press: with each share that it may keep, or at each number of bits, or as it is where it has neither to choose."""
    for name in names("presses"):
        plain: Any = component("presses", name)
        fields: dict[str, Mapping[str, Any]] = {name: {}}
        if hasattr(getattr(plain, "action", None), "bits"):
            fields = {f"{name} {bits} bits": {"action": {"name": plain.action.name, "bits": bits}} for bits in BITS}
        elif name == "fastkv":  # as published, twice as many tokens go on as are kept
            fields = {f"{name} {keep:g}": {"keep": keep, "propagate": min(1.0, 2 * keep)} for keep in keeps}
        elif name == "razor":  # its search repeats a stretch four times, and finds nothing where that is longer than what the model was trained on
            fields = {name: {"length": min(plain.length, context // plain.copies)}}
        elif getattr(plain, "keep", 1.0) < 1:
            fields = {f"{name} {keep:g}": {"keep": keep} for keep in keeps}
        for label, chosen in fields.items():
            press: Any = component("presses", {"name": name, **chosen})
            yield label, press


def calibrated(model: LanguageModel, keeps: Sequence[float], texts: Sequence[Sequence[int]]) -> list[Row]:
    """A row for every setting, each press calibrated once."""
    states: dict[str, State | None] = {}
    rows = []
    for label, press in settings(keeps, len(texts[0])):
        try:
            if press.name not in states:
                states[press.name] = press.calibrate(model, texts, 0)
        except ModelError as error:
            print(f"{label} is left out: {error}")
            continue
        rows.append(Row(label, press, states[press.name]))
    return rows


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def distributions(prefix: Prefix, memory: Memory, questions: Sequence[Sequence[int]]) -> torch.Tensor:
    """(Q, T - 1, V) float64 log-probabilities of what follows each token of the questions but the last."""
    model = prefix.model
    ids = torch.tensor([question[:-1] for question in questions], device=model.device)
    positions = torch.arange(len(prefix), len(prefix) + ids.shape[1], device=model.device).expand(len(ids), -1)
    hidden = forward(model, ids, positions, Pass([memory]))
    return logits_of(model, hidden.flatten(0, 1)).double().log_softmax(-1).unflatten(0, ids.shape)


def compare(row: Row, exact: torch.Tensor, lossy: torch.Tensor, questions: Sequence[Sequence[int]]) -> None:
    asked = torch.tensor([question[1:] for question in questions], device=exact.device).unsqueeze(-1)
    row.errors.append((exact.gather(-1, asked) - lossy.gather(-1, asked)).abs().squeeze(-1).cpu())
    row.divergences.append((exact.exp() * (exact - lossy)).sum(-1).cpu())
    row.agreements.append((exact.argmax(-1) == lossy.argmax(-1)).cpu())


def decoding_speed(row: Row, prefix: Prefix, memory: Memory, last: torch.Tensor, answers: int) -> float:
    """Tokens a second after the first, which the prefill gives; as the engine decodes."""
    model, n = prefix.model, len(prefix)
    growing, logits = Growing(model, DECODED), logits_of(model, last)
    caches = [row.press.decoder(prefix, layer) for layer in range(len(prefix.layers))] if row.press else []
    forgetting = [cache for cache in caches if cache is not None]
    if forgetting:
        state: Decodes = side_by_side([(Forgetting(forgetting, n), answers)])
    else:
        state = Decoding([memory], None, torch.zeros(answers, dtype=torch.long, device=model.device))
    began = clock(model.device)
    growing.grow(state, logits.expand(answers, -1), torch.full((answers,), n, device=model.device), np.arange(answers))
    return growing.decoded_tokens / (clock(model.device) - began)


def transformers_speed(model: LanguageModel, tokens: Sequence[int], answers: int) -> float:
    """The same by transformers: its own attention and cache, a copy of it for every answer."""
    from transformers import DynamicCache

    cache = DynamicCache()
    output = model.model(input_ids=torch.tensor([list(tokens)], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(answers)
    following = output.logits[:, -1].argmax(-1, keepdim=True).expand(answers, -1)
    began = clock(model.device)
    for _ in range(DECODED - 1):
        logits = model.model(input_ids=following, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        following = logits[:, -1].argmax(-1, keepdim=True)
    return answers * (DECODED - 1) / (clock(model.device) - began)


def measure(model: LanguageModel, rows: Sequence[Row], stretch: Sequence[int], questions: Sequence[Sequence[int]], given: argparse.Namespace) -> None:
    """All presses, the exact cache first, behind one prefix; the speed of decoding behind the first prefix only."""
    context = list(stretch[: given.context])
    prefix, hidden = prefilled(model, context, inputs=any(row.press is not None and row.press.reads_inputs for row in rows))
    whole = Memory([Plain(view.keys, view.values) for view in prefix.layers], len(prefix))
    exact = distributions(prefix, whole, questions) if questions else None
    if not rows[0].nbytes:
        decoding_speed(rows[0], prefix, whole, hidden[-1:], TOGETHER)  # warms up
    for row in rows:
        known, memory = replace(prefix, state=row.state), whole
        if row.press is not None:
            began = clock(model.device)
            memory = row.press.compress(known)
            row.seconds.append(clock(model.device) - began)
        row.nbytes.append(memory.nbytes)
        if exact is not None and row.press is not None:
            compare(row, exact, distributions(known, memory, questions), questions)
        for answers in () if len(row.nbytes) > 1 else (1, TOGETHER):
            row.speeds[answers] = max(decoding_speed(row, known, memory, hidden[-1:], answers) for _ in range(given.repeat))


COLUMNS = {
    **{"nats": ("|d nats|", "10.4f"), "kl": ("KL", "10.2e"), "kl_copied": ("KL copied", "11.2e"), "agreement": ("agree", "8.1%")},
    **{"compress_seconds": ("compress s", "12.3f"), "tokens_per_second_1": ("tokens/s, 1", "13.1f"), "tokens_per_second_8": ("tokens/s, 8", "13.1f")},
}


def show(found: Sequence[Mapping[str, Any]]) -> None:
    shown = {key: pair for key, pair in COLUMNS.items() if any(key in row for row in found)}
    width = {key: int(form.split(".")[0]) for key, (_, form) in shown.items()}
    print(f"{'':<22}{'KiB':>10}{'share':>8}" + "".join(f"{title:>{width[key]}}" for key, (title, _) in shown.items()))
    for row in found:
        cells = [f"{row[key]:>{form}}" if key in row else " " * width[key] for key, (_, form) in shown.items()]
        print(f"{row['label']:<22}{row['bytes'] / 1024:>10,.0f}{row['share']:>8.1%}{''.join(cells)}")


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or random-1b")
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a prefix")
    parser.add_argument("--prefixes", type=int, default=4)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--questions", type=int, default=8, help="behind every prefix, at least 4")
    parser.add_argument("--tokens", type=int, default=32, help="of a question, 16 to 64")
    parser.add_argument("--repeat", type=int, default=2, help="how often decoding is timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.questions < 4 or not 16 <= given.tokens <= 64 or given.context < 2 * given.tokens:
        parser.error("at least 4 questions of 16 to 64 tokens are asked behind a prefix of at least twice as many")
    if not given.texts and given.model != "random-1b":
        parser.error("a model with weights needs texts")
    return given


def main() -> None:
    given = read()
    warnings.simplefilter("ignore")
    if given.device == "cpu":
        torch.set_num_threads(1)
    length = given.context + (given.questions - given.questions // 2) * given.tokens
    if given.model == "random-1b":
        model = random_1b(SimpleNamespace(pad_token_id=0, eos_token_id=1), given.device, given.dtype)
        drawn = np.random.default_rng(0).integers(2, model.model.config.vocab_size, (given.prefixes + CALIBRATION, length))
        found, asked = drawn.tolist(), [[] for _ in range(given.prefixes)]
    else:
        model, _ = loaded(given)
        texts = [text for path in given.texts for text in texts_of(path)]
        found = stretches(texts, model.tokenizer, length, given.prefixes + CALIBRATION)
        asked = [questions_of(stretch, given.context, given.questions, given.tokens) for stretch in found[: given.prefixes]]
    longest = int(model.model.config.get_text_config().max_position_embeddings)
    if given.context + max(given.tokens, DECODED) > longest:
        raise SystemExit(f"the model has {longest} positions, too few for a context of {given.context}")
    with torch.inference_mode():
        peer = Row("exact, transformers", None)
        for answers in (1, TOGETHER):
            peer.speeds[answers] = max(transformers_speed(model, found[0][: given.context], answers) for _ in range(given.repeat))
        with ours(model.model):
            rows = [Row("exact", None), *calibrated(model, given.keep, [stretch[: given.context] for stretch in found[given.prefixes :]])]
            for stretch, questions in zip(found, asked, strict=False):
                measure(model, rows, stretch, questions, given)
    exact = rows[0].nbytes[0]
    peer.nbytes = [exact]  # by the shapes of its tensors, which are ours
    numbers = sorted((row.numbers(exact, given.questions // 2) for row in [*rows, peer]), key=lambda row: (row["bytes"], row.get("kl", 0)))
    print(f"{given.prefixes} prefixes of {given.context} tokens, {given.questions} questions of {given.tokens} behind each, {given.dtype} on {given.device}")
    show(numbers)
    if given.out:
        told = {key: getattr(given, key) for key in ("context", "prefixes", "questions", "tokens", "dtype", "device")}
        given.out.write_text(json.dumps({"model": Path(given.model).name, **told, "rows": numbers}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
