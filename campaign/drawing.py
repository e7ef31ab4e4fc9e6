"""Values drawn from a JSON schema, and damage to documents: what campaign.config_fuzz feeds to the readers of recipes and profiles."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
Schema = Mapping[str, Any]
Path = tuple[str | int, ...]

WORDS = ("a", "less", "all", "attention", "10%", "0o10", "1_000", "12:30", "true", "null", "~", "1e5", ".inf", "{x}", "-", "#", "0x1f", "=", "on", "2026-01-01")
WORDS += ("text: {prompt}", " x ", "it's", 'a "b"', "back\\slash", "a\nb", "\u00e9\u4e2d\U0001f600", "a/b", "../x", "x" * 300, "")
NUMBERS = (0, 1, 2, 3, 7, 64, 1000, 2**31, 2**53)
REALS = (0.0, 0.1, 0.5, 1.0, 1e-5, 3.5, 1e12, 1 / 3, 0.123456789, 1234567.25)
SHORT = 0.2  # the chance of a field that need not be given


def rng_of(seed: int, trial: int) -> Rng:
    """The random numbers of one trial, whatever ran before it."""
    return np.random.Generator(np.random.Philox(key=[seed, trial]))


def pick(rng: Rng, choices: Sequence[Any]) -> Any:
    """One of these."""
    return choices[int(rng.integers(len(choices)))]


def sampled(schema: Schema, definitions: Schema, rng: Rng, depth: int = 0) -> Any:
    """A value that the schema describes; what validators ask for beyond it may be broken."""
    if "$ref" in schema:
        return sampled(definitions[schema["$ref"].rpartition("/")[2]], definitions, rng, depth)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return sampled(pick(rng, schema[several]), definitions, rng, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return pick(rng, schema["enum"])
    match schema.get("type"):
        case "integer":
            return _number(schema, rng, [number for number in NUMBERS])
        case "number":
            return _number(schema, rng, [*REALS, *NUMBERS[:5]])
        case "boolean":
            return bool(rng.integers(2))
        case "null":
            return None
        case "array":
            least = int(schema.get("minItems", 0))
            return [sampled(schema.get("items", {}), definitions, rng, depth + 1) for _ in range(least + int(rng.integers(3)))] if depth < 6 else []
        case "object":
            return _mapping(schema, definitions, rng, depth)
    return pick(rng, WORDS)


def _number(schema: Schema, rng: Rng, choices: Sequence[float]) -> float:
    allowed = [
        value
        for value in choices
        if value >= schema.get("minimum", -np.inf)
        and value > schema.get("exclusiveMinimum", -np.inf)
        and value <= schema.get("maximum", np.inf)
        and value < schema.get("exclusiveMaximum", np.inf)
    ]
    return float(pick(rng, allowed)) if schema["type"] == "number" and allowed else pick(rng, allowed or choices)


def _mapping(schema: Schema, definitions: Schema, rng: Rng, depth: int) -> dict[str, Any]:
    needed, fields = set(schema.get("required", ())), schema.get("properties", {})
    chosen = [name for name in fields if name in needed or (depth < 6 and rng.random() < SHORT)]
    found = {name: sampled(fields[name], definitions, rng, depth + 1) for name in chosen}
    if isinstance(schema.get("additionalProperties"), Mapping):
        found |= {str(pick(rng, WORDS[:6])): sampled(schema["additionalProperties"], definitions, rng, depth + 1) for _ in range(int(rng.integers(3)))}
    return found


def paths(value: Any, above: Path = ()) -> list[Path]:
    """Where every value of a document is, the document itself left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*above, key), *paths(item, (*above, key)))]


def at(value: Any, path: Path) -> Any:
    """The value at a path."""
    for step in path:
        value = value[step]
    return value


def _wrong_type(value: Any, rng: Rng) -> Any:
    others = [[], {}, [[[1]]], {"a": {"b": 1}}, True, None, 0, -1, 1.5, "text", "", {"name": "less"}, ["less"], {"name": ["x"]}]
    return pick(rng, [other for other in others if type(other) is not type(value)])


def _odd_number(value: Any, rng: Rng) -> Any:
    return pick(rng, [float("nan"), float("inf"), -float("inf"), -0.0, 0, -1, -1.5, 2**63 - 1, -(2**63), 2**64, 10**30, 1e308, 5e-324, 1e-300])


def _odd_text(value: Any, rng: Rng) -> Any:
    odd = ["\x1b]0;x\x07", "\u202e", "\ufeff", "a\x85b", "\u2028", "\u0430", "e\u0301", "\U0001f600" * 50, "x" * 100_000, "{" * 500, "../" * 50, "\x7f", "%s%n"]
    return pick(rng, odd)


def _deep(value: Any, rng: Rng) -> Any:
    for _ in range(int(rng.integers(1, 90))):
        value = [value] if rng.integers(2) else {"name": value}
    return value


DAMAGES: tuple[Callable[[Any, Rng], Any], ...] = (_wrong_type, _odd_number, _odd_text, _deep)


def damaged(document: dict[str, Any], rng: Rng) -> dict[str, Any]:
    """The document with one thing wrong: a value of another type, an odd number or text, a key that is unknown, gone or elsewhere."""
    found = copy.deepcopy(document)
    path = pick(rng, paths(found))
    inside, key = at(found, path[:-1]), path[-1]
    match int(rng.integers(8)):
        case 0 if isinstance(inside, dict):
            name = str(key)
            inside[pick(rng, (name + "s", name[:-1] or "x", name.upper(), "x" * 1000, "\u202e" + name, "", " ", "__class__", "model_config"))] = inside.pop(key)
        case 1 if isinstance(inside, dict):
            del inside[key]
        case 2 if isinstance(inside, dict):
            inside[pick(rng, ("extra", "name", "seed", "path", "~", "0", "null"))] = pick(rng, (1, None, "x", [], {}))
        case 3:
            other = at(found, pick(rng, paths(found)))
            inside[key] = copy.deepcopy(other)
        case _:
            inside[key] = pick(rng, DAMAGES)(inside[key], rng)
    return found


def mutated(raw: bytes, rng: Rng) -> bytes:
    """The bytes with one to eight pieces flipped, cut, doubled, or replaced by others."""
    found = bytearray(raw)
    pieces = [b"\0", b"\xff", b"\t", b"\n", b": ", b"- ", b"&a ", b"*a", b"!!", b"{", b"[", b"'", b'"', b"%", b"<<: ", b"\r", b"?", b"|", b"\xe2\x80\xae", b"#"]
    for _ in range(int(rng.integers(1, 9))):
        start = int(rng.integers(len(found) + 1))
        length = int(rng.integers(12))
        match int(rng.integers(5)):
            case 0 if start < len(found):
                found[start] ^= 1 << int(rng.integers(8))
            case 1:
                del found[start : start + length]
            case 2:
                found[start:start] = pick(rng, pieces)
            case 3:
                found[start:start] = found[start : start + length * 4]
            case _:
                found[start : start + length] = rng.bytes(int(rng.integers(6)))
    return bytes(found)


def as_text(document: Mapping[str, Any], rng: Rng) -> bytes:
    """The document as a person or a program would write it: YAML in blocks or in flow, or JSON."""
    import yaml

    style = int(rng.integers(3))
    if style == 2:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    return str(yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=bool(style), allow_unicode=True)).encode("utf-8", "surrogatepass")
