"""What calibrations share: needles in haystacks of any texts, greedy passes that can be watched, and the reading of what was measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.errors import DataError, ModelError
from curate.randomness import draw, row_keys

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.passes import Pass
    from curate.inference.stores import Plain


@dataclass(frozen=True)
class Haystack:
    """Text with a needle at tokens[start:stop], and the needle's first tokens again at its end."""

    tokens: Sequence[int]
    start: int
    stop: int


def haystacks(texts: Sequence[Sequence[int]], seed: int, *, count: int, context: int, needle: int, cue: int) -> list[Haystack]:
    """`count` haystacks: a needle of some text, cut out of it, lies at a place drawn by the seed in `context` tokens of the texts put one after another."""
    sources = [i for i, text in enumerate(texts) if len(text) >= needle]
    if not sources:
        longest = max((len(text) for text in texts), default=0)
        raise DataError(f"needles of {needle} tokens are cut from the calibration's texts, of which the longest has {longest} tokens; give longer ones")
    keys = row_keys(seed, "needles", map(str, range(count)))
    fractions = [draw(keys, index) for index in range(4)]
    found = []
    for trial in range(count):
        source, first, place, depth = (float(values[trial]) for values in fractions)
        own = sources[int(source * len(sources))]
        start = int(place * (len(texts[own]) - needle + 1))
        cut = [*texts[own][:start], *texts[own][start + needle :]]
        hay = _joined(texts, own, cut, int(first * len(texts)), context)
        at = int(depth * (len(hay) + 1))
        hidden = list(texts[own][start : start + needle])
        found.append(Haystack([*hay[:at], *hidden, *hay[at:], *hidden[:cue]], at, at + needle))
    return found


def _joined(texts: Sequence[Sequence[int]], own: int, cut: Sequence[int], first: int, length: int) -> list[int]:
    """Texts from the first on, round and round once, up to `length` tokens; of text `own` what was left of it."""
    joined: list[int] = []
    for offset in range(len(texts)):
        number = (first + offset) % len(texts)
        joined += cut if number == own else texts[number]
        if len(joined) >= length:
            break
    return joined[:length]


@dataclass(frozen=True)
class Said:
    """A token that the model said greedily, and the pass that it came from."""

    token: "Tensor"  # () int64
    queries: "Sequence[Tensor]"  # (Hq, 1, d) per layer, of the token before it
    layers: "Sequence[Plain]"  # keys and values per layer, up to and with that token's


def greedy(prefix: "Prefix", last: int, steps: int) -> "Iterator[Said]":
    """What the model says after the prefix and one token more, step by step on the full cache; run within `ours(model.model)`."""
    import torch

    from curate.inference.passes import forward, logits_of
    from curate.inference.stores import Plain

    model = prefix.model
    layers = [Plain(view.keys, view.values) for view in prefix.layers]
    token = torch.tensor(last, device=model.device)
    for position in range(len(prefix), len(prefix) + steps):
        queries, step = _watched(layers, position)
        hidden = forward(model, token.reshape(1, 1), torch.tensor([[position]], device=model.device), step)
        made = zip(layers, step.made, strict=True)
        layers = [Plain(torch.cat([old.keys, key[0]], 1), torch.cat([old.values, value[0]], 1)) for old, (key, value) in made]
        token = logits_of(model, hidden[0])[0].argmax()
        yield Said(token, queries, layers)


def _watched(layers: "Sequence[Plain]", tokens: int) -> "tuple[list[Tensor], Pass]":
    """A pass of one sequence over these layers, and where its queries (Hq, T, d) will lie."""
    from curate.inference.passes import Pass
    from curate.inference.stores import Memory

    queries: list[Tensor] = []
    return queries, Pass([Memory(layers, tokens)], keep=True, watch=lambda layer, query, key, value, scale: queries.append(query[0]))


def calibrated(prefix: "Prefix", name: str, shape: tuple[int, ...], who: str) -> "Tensor":
    """What the calibration of `who` left under a name, on the prefix's device; ModelError where there is none, or that of another model."""
    import torch

    if prefix.state is None or name not in prefix.state:
        raise ModelError(f"{who} reads what its calibration measured, and this prefix has none; calibrate the press on the base model first")
    found = torch.as_tensor(prefix.state[name])
    if tuple(found.shape) != shape:
        raise ModelError(f"the calibration of {who} is of another model: {name} is {tuple(found.shape)}, but this model needs {shape}; calibrate on its base")
    return found.to(prefix.layers[0].keys.device)
