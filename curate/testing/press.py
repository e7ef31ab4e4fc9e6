"""What every press promises: `check_press(MyPress())`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from curate.errors import CurateError
from curate.interfaces import Press
from curate.testing.component import Nonconforming, check_identity, require, require_refusal
from curate.testing.pressed import FOLLOWERS, Pressed, apart, calibration, reached, running, same_tensors
from curate.testing.random_models import ARCHITECTURES

if TYPE_CHECKING:
    from torch import Tensor

    from curate.inference.stores import DecodeCache, Memory

TOKENS = 96  # of the prefix: whole groups and blocks of the usual sizes
CLOSE = 1e-5  # of logits, in their standard deviations
STEPS = 20  # tokens that are generated


def check_press(press: Press, *, whole: Mapping[str, Any] | None = None, error: float | None = None, device: str = "cpu") -> None:
    """Run every check of the press contract on small random models: Llama, Llama with one key-value head, Qwen2, GPT-NeoX.

    Identity; the full cache where everything is kept; determinism; a prefix, a model and other sequences that are left alone; bytes as they are; budgets;
    true positions; short prefixes; bfloat16; a calibration that can be stored, and what its absence says; the cache for generated tokens, if there is one.

    Args:
        press: the instance to check; others of its class are made from its fields.
        whole: fields with which it keeps everything, through all of its code. By default the class's own attribute `whole`, a mapping, or else `keep: 1`.
        error: how far logits may then be from those of the full cache, in their standard deviations; for presses that round numbers. By default the
            class's own attribute `error`, or else 0, which stands for the rounding of sums.
        device: where the models run.
    """
    check_identity(press, "presses")
    require(bool(type(press).model_fields["name"].description), f"{type(press).__name__}.name: every field needs a description")
    everything = _everything(press, whole)
    allowed = CLOSE + (error if error is not None else press.error)
    twin, sizes = _with(press, {}), _sizes(press)
    for architecture in ARCHITECTURES:
        made = Pressed.on(press, architecture, TOKENS, device=device)
        before, weights = made.snapshot(), [parameter.clone() for parameter in made.model.model.parameters()]
        _check_everything(made.by(everything), allowed)
        _check_memory(made, made.memory(), twin)
        _check_bytes(made, everything, sizes)
        _check_calibration(made)
        _check_decoder(made, made.by(everything) if allowed <= CLOSE else None)
        _check_short(made, made.by(everything), allowed)
        made.require_unchanged(before)
        after = list(made.model.model.parameters())
        require(all(one.equal(other) for one, other in zip(after, weights, strict=True)), f"{made.place}: changes the model's weights")
        require(made.shortened(TOKENS).last.equal(made.last), f"{made.place}: leaves the model such that a prefill gives other numbers")
        _check_half(Pressed.on(press, architecture, TOKENS, device=device, half=True))


def _everything(press: Press, fields: Mapping[str, Any] | None) -> Press:
    """An instance that keeps everything."""
    given = fields if fields is not None else press.whole
    if given is None:
        require("keep" in type(press).model_fields, f"{press.name}: needs a field `keep`, or a class attribute `whole`: the fields that keep everything")
        given = {"keep": 1.0, **({"tokens": None} if "tokens" in type(press).model_fields else {})}
    return _with(press, given)


def _with(press: Press, fields: Mapping[str, Any]) -> Press:
    return type(press).model_validate(press.model_dump() | dict(fields))


def _sizes(press: Press) -> list[Press]:
    """The press with more and more kept, where it evicts at all: one that does not says so by the bounds of its field."""
    if "keep" not in type(press).model_fields:
        return []
    try:
        return [_with(press, {"keep": keep}) for keep in (0.25, 0.6, 1.0)]
    except ValueError:
        return []


def _check_everything(made: Pressed, allowed: float) -> None:
    off = apart(made.logits(made.memory()), made.logits(made.whole()))
    require(off <= allowed, f"{made.place}: with everything kept, logits are {off:.2g} deviations from those of the full cache; {allowed:.2g} are allowed")
    own = getattr(made.press, "prefill", None)
    if own is None:
        return
    with running(made.model):
        _, hidden = own(made.model, made.prefix.tokens)
    off = apart(hidden[-1:].float(), made.last.float())
    require(off <= allowed, f"{made.place}: with everything kept, its prefill's last hidden state is {off:.2g} deviations from the exact one")


def _check_short(made: Pressed, everything: Pressed, allowed: float) -> None:
    for tokens in (1, 3):
        short = made.shortened(tokens)
        try:
            short.logits(short.memory())
        except (CurateError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise Nonconforming(f"{made.place}: fails on a prefix of {tokens} tokens: {type(error).__name__}: {error}") from error
        full = short.by(everything.press)
        off = apart(full.logits(full.memory()), full.logits(full.whole()))
        require(off <= allowed, f"{made.place}: with all of {tokens} tokens kept, logits are {off:.2g} deviations from those of the full cache")


def _check_memory(made: Pressed, memory: "Memory", twin: Press) -> None:
    require(same_tensors(made.memory(), memory), f"{made.place}: the same prefix twice gives different bits")
    require(same_tensors(made.by(twin).memory(), memory), f"{made.place}: an instance with equal fields stores other numbers")
    held = [tensor.clone() for layer in memory.layers for tensor in layer.tensors]
    together = made.logits(memory)
    for row, follower in zip(together, FOLLOWERS, strict=True):
        off = apart(made.logits(memory, [follower])[0], row)
        require(off <= CLOSE, f"{made.place}: a sequence in a batch differs from the same sequence alone by {off:.2g} deviations")
    now = [tensor for layer in memory.layers for tensor in layer.tensors]
    require(all(one.equal(other) for one, other in zip(now, held, strict=True)), f"{made.place}: its memory changes when tokens attend to it")
    if getattr(made.press, "prefill", None) is not None:
        with running(made.model):
            own, _ = getattr(made.press, "prefill")(made.model, made.prefix.tokens)  # noqa: B009, an optional method
        require(same_tensors(own, memory), f"{made.place}: its prefill stores other numbers than it makes of an exact prefix")
    else:
        _check_positions(made, memory, together)


def _check_positions(made: Pressed, memory: "Memory", logits: "Tensor") -> None:
    """Where keys are kept as they are: they are tokens' own, in order, and what follows sees the full cache with the other tokens masked."""
    import torch

    from curate.inference.stores import Memory, Plain

    masked = []
    for store, view in zip(memory.layers, made.prefix.layers, strict=True):
        heads = _heads(store)
        bias = torch.full(view.keys.shape[:2], float("-inf"), device=view.keys.device)
        for head, own in enumerate(heads):
            if own.bias is not None or made.press.merges:
                return
            places = (own.keys[0].unsqueeze(1) == view.keys[head]).all(-1)
            known = bool(places.any(1).all()) and bool((places.int().argmax(1).diff() > 0).all())
            require(known, f"{made.place}: stores keys that are not those of the prefix's tokens at their own positions, in order; see `merges`")
            bias[head, places.int().argmax(1)] = 0.0
            if not own.values[0].equal(view.values[head][places.int().argmax(1)]):
                return
        if len(heads) < len(bias) or not bias.isfinite().any(1).all():
            return
        masked.append(Plain(view.keys, view.values, bias))
    off = apart(logits, made.logits(Memory(masked, memory.tokens)))
    require(off <= CLOSE, f"{made.place}: what follows is {off:.2g} deviations from the full cache with the dropped tokens masked")


def _heads(store: Any) -> list[Any]:
    """Keys and values of each head as they are, where a store keeps them so; none where it keeps something else."""
    from curate.inference.stores import Plain, Ragged

    if isinstance(store, Ragged) and all(isinstance(head, Plain) for head in store.heads):
        return list(store.heads)
    if not isinstance(store, Plain):
        return []
    bias = [None] * len(store.keys) if store.bias is None else store.bias.split(1)
    return [type(store)(*parts) for parts in zip(store.keys.split(1), store.values.split(1), bias, strict=True)]


def _check_bytes(made: Pressed, everything: Press, sizes: Sequence[Press]) -> None:
    from curate.inference.stores import held_bytes

    memory = made.memory()
    held = held_bytes(reached(memory, made.model))
    require(memory.nbytes == held, f"{made.place}: reports {memory.nbytes} bytes, but its memory holds on to {held}")
    _check_budget(made, memory)
    most = made.by(everything).memory().nbytes
    if type(made.press).simulated:
        return
    require(memory.nbytes <= most, f"{made.place}: takes {memory.nbytes} bytes, more than the {most} with everything kept")
    smaller = [made.by(size) for size in sizes]
    for size in smaller:
        _check_budget(size, size.memory())
    counted = [size.memory().nbytes for size in smaller]
    require(
        all(a < b for a, b in zip(counted, counted[1:], strict=False)), f"{made.place}: calls itself no simulation, but keep 0.25, 0.6, 1 take {counted} bytes"
    )


def _check_budget(made: Pressed, memory: "Memory") -> None:
    """For a press that says how many tokens a layer and head keep on average, where these can be counted."""
    budget = getattr(made.press, "budget", None)
    if budget is None:
        return
    kept = 0
    for store in memory.layers:
        heads = _heads(store)
        if not heads:
            return
        kept += sum(head.keys.shape[1] for head in heads)
    allowed = budget(made.prefix) * len(memory.layers) * made.prefix.layers[0].keys.shape[0]
    require(kept <= allowed, f"{made.place}: keeps {kept} tokens over all layers and heads, more than its budget of {allowed}")


def _check_calibration(made: Pressed) -> None:
    import torch
    from safetensors.torch import load, save

    state = made.prefix.state
    if state is None:
        return
    tensors = isinstance(state, Mapping) and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items())
    require(tensors, f"{made.place}: calibrate must return a mapping of names to tensors")
    again = calibration(made.press, made.model)
    same = again is not None and set(again) == set(state) and all(again[name].equal(state[name]) for name in state)
    require(same, f"{made.place}: the same calibration twice gives different bits")
    read = load(save({name: value.contiguous() for name, value in state.items()}))
    moved = {name: value.to(state[name].device) for name, value in read.items()}
    stored = replace(made, prefix=replace(made.prefix, state=moved)).memory()
    require(same_tensors(stored, made.memory()), f"{made.place}: a calibration that was stored and read again gives other numbers")
    promise = f"{made.place}: must refuse a prefix without its calibration with a CurateError of one line"
    require_refusal(promise, lambda: replace(made, prefix=replace(made.prefix, state=None)).memory())


def _check_decoder(made: Pressed, everything: Pressed | None) -> None:
    """Generated tokens: finite, the same twice, one sequence apart from another, and at first exact where everything is kept."""
    import torch

    from curate.inference.attention import attention
    from curate.inference.stores import held_bytes

    for layer, view in enumerate(made.prefix.layers):
        with running(made.model):
            caches = [made.press.decoder(made.prefix, layer) for _ in range(3)]
            if caches[0] is None or caches[1] is None or caches[2] is None:
                return
            runs = _generated(made, layer, [caches[0], caches[1]], [0, 1])
            alone = _generated(made, layer, [caches[2]], [0])
            own = held_bytes(reached(caches[2], made.model))
            said = held_bytes(caches[2].tensors)
        require(own == said, f"{made.place}: its cache of generated tokens reports {said} bytes of {own}")
        require(bool(torch.isfinite(runs[0]).all()), f"{made.place}: attention of generated tokens is not finite")
        require(runs[0].equal(alone[0]), f"{made.place}: generating one sequence changes what another gets, or the same twice differs")
        exact = everything.press.decoder(made.prefix, layer) if everything is not None else None
        if exact is None:
            continue
        with running(made.model):
            found = _generated(made, layer, [exact], [0])[0][0]
            query, key, value = _drawn(made, layer, 0)[0]
            keys, values = torch.cat([view.keys, key], 1), torch.cat([view.values, value], 1)
            wanted = attention(query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), view.scale)[0][0]
        off = apart(found, wanted)
        require(off <= CLOSE, f"{made.place}: with everything kept, the first generated token's attention is {off:.2g} deviations from the exact one")


def _generated(made: Pressed, layer: int, caches: "list[DecodeCache]", seeds: list[int]) -> "list[Tensor]":
    """(STEPS, Hk, G, d) of each cache, which take turns."""
    import torch

    found: list[list[Tensor]] = [[] for _ in caches]
    drawn = [_drawn(made, layer, seed) for seed in seeds]
    for step in range(STEPS):
        for outputs, cache, states in zip(found, caches, drawn, strict=True):
            outputs.append(cache.attend(*states[step], len(made.prefix) + step, made.prefix.layers[layer].scale))
    return [torch.stack(outputs) for outputs in found]


def _drawn(made: Pressed, layer: int, seed: int) -> "list[tuple[Tensor, Tensor, Tensor]]":
    """Random queries (Hk, G, d), keys and values (Hk, 1, d), STEPS times."""
    import torch

    view = made.prefix.layers[layer]
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(view.keys), size, view.keys.shape[-1]) for size in (view.groups, 1, 1)]
    drawn = [[torch.randn(shape, generator=generator).to(view.keys) for shape in shapes] for _ in range(STEPS)]
    return [(query, key, value) for query, key, value in drawn]


def _check_half(made: Pressed) -> None:
    import torch

    memory = made.memory()
    made.logits(memory)
    require(same_tensors(made.memory(), memory), f"{made.place}: the same prefix twice gives different bits")
    wide = [tensor for layer in memory.layers for tensor in layer.tensors if tensor.ndim == 3 and tensor.dtype in (torch.float32, torch.float64)]
    heavy = [tensor for tensor in wide if tensor.shape[-1] == made.prefix.layers[0].keys.shape[-1]]
    require(not heavy, f"{made.place}: stores keys or values in {heavy[0].dtype if heavy else ''}, wider than the model's")
