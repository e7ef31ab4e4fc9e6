"""Rows that give a feature no usable number: set aside by id and reason, neighbours untouched, and a stop above the limit."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from curate.core import Artifact
from curate.data.examples import open_examples
from curate.features import map_tensors
from curate.randomness import uniform
from curate.registry import names

# The tokens of the rows below, for a model without positions. The embedding of NAN overflows in the first norm; that of SILENT is
# the same number throughout, which every norm makes zero, so no layer reads anything; the logit of UNLIKELY is always -1000.
NAN, SILENT, UNLIKELY, PLAIN = 1000, 1001, 1002, 1003
RECIPE = """name: bad
pool: [{path: text.jsonl, id: id}, {path: tokens.jsonl, id: id}]
target: {rare: {path: target.jsonl, id: id}}
model: {path: gpt, max_length: 64}
hygiene: {quarantine_limit: LIMIT}
warmup: {fraction: 20%, epochs: 2, learning_rate: 1.0e-3, lora: {r: 2, alpha: 4, targets: attention}}
features:
  exact: less
  adam: {name: less, width: 32}
  plain: {name: less, direction: sgd, normalise: none, width: 32}
  unit: {name: less, direction: sgd, width: 32}
  influence: {name: influence, fisher_rows: 8}
  woodbury: {name: influence, curvature: woodbury, fisher_rows: 8}
  curved: {name: influence, width: 32, fisher_rows: 8}
  own: {name: self_influence, fisher_rows: 8}
  trak: {name: trak, width: 8, kernel_rows: 8}
  hidden: rds
  loss: loss
  norm: grad_norm
  perplexity: perplexity
  error: {name: el2n, at: every}
  words: bm25
  ngrams: dsir
  margin: {name: margin, at: every}
  forgetting: forgetting
  ifd: ifd
  difference: {name: difference, teacher: gpt}
  embedded: {name: embed, path: gpt}
  rate: {name: fail_rate, column: rate}
arms: {ARMS}
budgets: [4]
seeds: [0]
baselines: [random]
evaluate: {task: likelihood, data: {synthetic: test, rows: 4}}
"""
COMPARED = ("exact", "influence", "woodbury")
VECTORS = ("adam", "plain", "unit", "curved", "trak", "hidden", "embedded")
SCORES = ("own", "loss", "norm", "perplexity", "error", "ngrams", "margin", "forgetting", "ifd", "difference", "rate")
TEXTS = [{"id": f"t{i:02d}", "prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}.", "rate": 0.5} for i in range(40)]
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def gpt(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)
    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 1024, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False))
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight[NAN], model.transformer.wte.weight[SILENT] = 3e38, 1.0
        model.transformer.ln_f.weight[0], model.transformer.ln_f.bias[0] = 0, 1
        model.lm_head.weight[UNLIKELY] = torch.eye(32)[0] * -1000
    model.save_pretrained(folder)
    return folder


def row(name: str, token: int, *, masked: bool = False) -> dict[str, Any]:
    """A row of tokens, all of them or the fourth `token`."""
    ids = [SILENT] * 7 if token == SILENT else [1, 5, 6, token, 8, 9, 2]
    return {"id": name, "input_ids": ids, "labels": [-100] * 7 if masked else [-100, -100, *ids[2:]]}


POISON = [row("nan", NAN), row("silent", SILENT), row("unlikely", UNLIKELY)]
HARMLESS = [row("nan", PLAIN), row("silent", PLAIN), row("unlikely", PLAIN)]
TARGET = [row(f"g{i}", 1004 + i) for i in range(6)]
WORDED = [{**text, "id": "g" + text["id"]} for text in TEXTS[:6]]


def arm(name: str) -> str:
    """An arm that reads this feature."""
    slot, selector = "scores", "top_k"
    if name in COMPARED + VECTORS:
        slot, selector = "vectors", "round_robin" if name in COMPARED else "facility_location"
    if name == "words":
        slot, selector = "similarity", "round_robin"
    return f"a-{name}: {{{slot}: {name}, selector: {selector}}}"


@pytest.fixture
def score(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, gpt: Path) -> Run:
    """Score text and these rows of tokens for a target; the exit code and what was said: one line, or none."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    (tmp_path / "gpt").symlink_to(gpt)

    def go(features: Sequence[str], pool: list[Any], target: Sequence[Any] = WORDED, limit: str = "1%", texts: Sequence[Any] = TEXTS) -> tuple[int, str]:
        for name, rows in (("text", texts), ("tokens", pool), ("target", target)):
            Path(f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        Path("bad.yaml").write_text(RECIPE.replace("LIMIT", limit).replace("ARMS", ", ".join(map(arm, features))))
        code = command_line("run", "bad.yaml", "--until", "select", "--quiet", "--workers", "1")
        said = capsys.readouterr().err
        assert said == "" if code == 0 else said.startswith("error: ") and said.count("\n") == 1, said
        return code, said

    return go


def results() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path("runs/bad/results.json").read_bytes())
    return document


def numbers() -> dict[str, dict[str, bytes]]:
    """The bytes of every row of every feature of the last run, by label and id."""
    found: dict[str, dict[str, bytes]] = {}
    for stage in json.loads(Path("runs/bad/run.json").read_bytes())["stages"]:
        if stage["stage"] == "features":
            artifact = Artifact(stage["key"], Path("store") / stage["key"], json.loads((Path("store") / stage["key"] / "manifest.json").read_bytes()))
            ids = open_examples(Path("store") / artifact.manifest["inputs"][0]).ids
            shards = [map_tensors(artifact.path / name) for name in artifact.manifest["summary"]["shards"]]
            found[stage["label"]] = {str(ids[i]): value.tobytes() for shard in shards for i, value in zip(shard["rows"], shard["values"], strict=True)}
    return found


REASONS = {
    **dict.fromkeys(("exact", "adam", "influence", "woodbury", "own", "hidden", "loss", "norm", "error"), {"nan": "not_finite"}),
    **dict.fromkeys(("plain", "curved", "trak"), {"nan": "not_finite", "silent": "zero_norm"}),
    "unit": {"nan": "not_finite", "silent": "not_finite"},
    "perplexity": {"nan": "not_finite", "unlikely": "not_finite"},
    **dict.fromkeys(("margin", "forgetting", "ifd", "difference"), {"nan": "not_finite"}),
    **dict.fromkeys(("words", "embedded", "rate"), dict.fromkeys(("nan", "silent", "unlikely"), "not_finite")),  # which have no text and no column
}


def test_every_scorer_of_the_registry_is_among_those_that_meet_bad_rows() -> None:
    features = yaml.safe_load(RECIPE.partition("arms:")[0])["features"]
    assert {feature if isinstance(feature, str) else feature["name"] for feature in features.values()} == set(names("scorers"))
    assert set(features) == {*REASONS, "ngrams"}  # dsir reads text alone: tested below


def test_rows_without_a_usable_number_are_set_aside_by_id_and_reason_and_their_neighbours_keep_their_bits(score: Run) -> None:
    ids = np.array(sorted(entry["id"] for entry in [*TEXTS, *POISON]))
    for purpose in ("warm-up rows", "prepare"):  # of which training and curvature are made
        assert not {entry["id"] for entry in POISON} & set(ids[np.argsort(uniform(0, purpose, ids), kind="stable")[:8]])
    assert score([*REASONS], POISON, limit="10%")[0] == 0
    aside: dict[str, dict[str, str]] = {}
    for entry in results()["quarantined"]:
        aside.setdefault(entry["part"], {})[entry["id"]] = entry["reason"]
    assert aside == REASONS
    poisoned = numbers()
    assert score([*REASONS], HARMLESS, limit="10%")[0] == 0
    for label, rows in numbers().items():
        others = {name: value for name, value in rows.items() if name not in ("nan", "silent", "unlikely")}
        assert {name: poisoned[label][name] for name in others} == others, label


@pytest.mark.parametrize("name", ["exact", "unit", "woodbury", "own", "trak", "hidden", "perplexity", "words"])
def test_above_the_limit_the_run_stops_with_the_remedy_and_a_higher_limit_goes_on_without_scoring_again(score: Run, name: str) -> None:
    code, message = score([name], POISON)
    count, first = len(REASONS[name]), min(REASONS[name])
    assert code == 5 and f"{count} of 43 rows of the pool gave no finite, non-zero number" in message
    assert f"row {first}, {REASONS[name][first]}); the limit is 1.0%" in message and "raise hygiene.quarantine_limit" in message
    assert not list(Path("store").glob("features-*"))
    kept = {path.relative_to("store/.part"): path.stat().st_mtime_ns for path in Path("store/.part").glob("features-*/shard-*")}
    assert len(kept) == 2 and score([name], POISON, limit="10%")[0] == 0
    assert {path: (Path("store") / path).stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("part", ["pool", "rare"])
def test_rows_whose_tokens_all_carry_no_loss_are_set_aside_before_anything_is_scored(score: Run, part: str) -> None:
    masked = [row("masked", PLAIN, masked=True)]
    code, message = score(["loss"], masked) if part == "pool" else score(["loss"], HARMLESS, [*TARGET, *masked])
    assert code == 3 and "(no_supervised_tokens 1; for example " in message and "none of 7 tokens carries loss); the limit is 1%: " in message
    assert not list(Path("store").rglob("shard-*"))


@pytest.mark.parametrize("name", ["unit", "curved", "trak", "hidden"])
def test_a_target_row_without_a_vector_counts_against_the_limit(score: Run, name: str) -> None:
    code, message = score([name], HARMLESS, [*TARGET, row("gnan", NAN)])
    assert code == 5 and "1 of 7 rows of the target gave no finite, non-zero number" in message and "row gnan, not_finite); the limit is 1.0%" in message
    assert score([name], HARMLESS, [*TARGET, row("gnan", NAN)], limit="15%")[0] == 0


@pytest.mark.parametrize("name", COMPARED)
def test_a_target_row_without_a_column_counts_against_the_limit(score: Run, name: str) -> None:
    code, message = score([name], HARMLESS, [*TARGET, row("gnan", NAN)])
    assert code == 5 and "1 of 7" in message and "gnan" in message and "the limit is 1.0%" in message


@pytest.mark.parametrize("name", ["exact", "woodbury", "hidden"])
def test_a_target_row_that_was_set_aside_is_named_in_the_results(score: Run, name: str) -> None:
    assert score([name], HARMLESS, [*TARGET, row("gnan", NAN)], limit="15%")[0] == 0
    assert [entry["id"] for entry in results()["quarantined"]] == ["gnan"] and any("1 target rows had no" in line for line in results()["warnings"])


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("exact", NAN, "less: no target row has a gradient, so there is nothing to compare with; use other target rows"),
        ("unit", SILENT, "less: no target row has a gradient, so there is nothing to compare with; use other target rows"),
        ("woodbury", NAN, "influence: no target row has a gradient, so there is nothing to compare with; use other target rows"),
        ("influence", SILENT, "influence: no target row has a gradient"),
        ("words", PLAIN, "bm25: no row of the target has a word to look for (part: all); give a target with text, or another part"),
        ("ngrams", PLAIN, "dsir: no row of the target has text to count; give a target of text or of conversations"),
    ],
)
def test_a_target_of_which_nothing_is_of_use_is_refused(score: Run, name: str, token: int, said: str) -> None:
    code, message = score([name], HARMLESS, [row("g1", token), row("g2", token)])
    assert code == 3 and said in message


def test_a_pool_without_a_gradient_has_no_curvature(score: Run) -> None:
    silent = [row(f"s{i}", SILENT) for i in range(20)]
    code, message = score(["influence"], silent[:1], limit="100%", texts=silent[1:])
    assert code == 5 and "feature influence (exact): curvature of " in message and "no row of the sample has a gradient there" in message
    assert "name modules that have one, sample more rows, or look at the answers of the pool" in message  # all that a recipe can change


def test_a_pilot_of_which_no_row_can_be_used_is_one_line(score: Run) -> None:
    silent = [row(f"s{i}", SILENT) for i in range(20)]
    assert score(["unit"], silent[:1], limit="100%", texts=silent[1:])[0] == 5


def test_a_row_without_text_is_set_aside_by_dsir(score: Run) -> None:
    assert score(["ngrams"], HARMLESS, limit="10%")[0] == 0
    assert {entry["id"] for entry in results()["quarantined"]} == {"nan", "silent", "unlikely"}
