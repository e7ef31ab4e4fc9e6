"""Semantic duplicates and near-copies of items in a run: against brute force, with every row accounted for, killed and resumed, and on every surface."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from curate.core import Artifact
from curate.data.account import unaccounted
from curate.data.examples import in_reading_order, open_examples
from curate.encoder import load
from curate.errors import ConfigError
from curate.pipelines import embedded, near_leaks
from curate.recipe import parse_recipe, read_recipe
from curate.strict_yaml import load as load_yaml

Command = Callable[..., int]
AT = 0.98
SEMANTIC = (f"hygiene.semantic={{encoder: {{name: embed, path: encoder}}, at: {AT}}}", "hygiene.deduplicate=semantic")
NEAR = f"hygiene.leaks={{near: {{encoder: {{name: embed, path: encoder}}, at: {AT}}}}}"
QUIET = ("--quiet", "--workers", "1")


@pytest.fixture(autouse=True)
def encoder(folder: Path) -> None:
    """A random encoder whose words are those of the data, and rows whose order of words is another than that of earlier ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    with open(folder / "second.jsonl", "a") as file:
        for prompt, completion in (
            ("Tell me of the fox the tale.", "it very much indeed wanted to have and the fox in its beak of cheese a piece held that a crow met a fox upon"),
            ("Name a fact about the number 23. Question 23:", "The number 23 follows 22."),
            ("name a fact  about the number 23. question 23:", "The number 23 follows 22."),
            ("question 23: name a fact about the number 23.", "the number 23  follows 22."),
            ("In the valley a farmer has 230 sheep and at the market buys 14 more of them before the winter. How many sheep has the farmer now?", "244"),
        ):
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    said = " ".join(file.read_text() for file in folder.glob("*.jsonl"))
    words = ["[PAD]", "[UNK]", *sorted(set(re.findall(r"\w+|[^\w\s]+", said.lower())))]
    sizes = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes, max_position_embeddings=256)).save_pretrained(folder / "encoder")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder / "encoder")
    (folder / "encoder" / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True, "max_seq_length": 256}))


def one(folder: Path, stage: str) -> Path:
    (found,) = (folder / "store").glob(f"{stage}-*")
    return found


def whole_of(folder: Path) -> tuple[list[str], list[str]]:
    """Ids and words of the pool before anything was left out, in the order of its sources."""
    path = max((folder / "store").glob("examples-*"), key=lambda path: len(open_examples(path)))
    examples, order = open_examples(path), in_reading_order(path)
    return [str(examples.ids[i]) for i in order], ["\n".join(text for _, text in examples.rows[int(i)].content.turns) for i in order]


def unit(folder: Path, texts: list[str]) -> NDArray[np.float64]:
    rows = np.concatenate([load(folder / "encoder").encode([text]).double().numpy() for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def dropped(folder: Path) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in pq.read_table(one(folder, "clean") / "dropped.parquet").to_pylist()}


def indices(folder: Path, stage: str) -> Mapping[str, Any]:
    """The hashes of the files of this stage, by key."""
    return {path.name: json.loads((path / "manifest.json").read_bytes())["files"] for path in folder.glob(f"{stage}-*")}


def test_who_goes_is_who_goes_by_brute_force_over_all_pairs(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", *SEMANTIC, "--until", "prepare", *QUIET) == 0
    names, texts = whole_of(folder)
    rows, plain = unit(folder, texts), [" ".join(text.lower().split()) for text in texts]
    stays: list[int] = []
    wanted: dict[str, tuple[str, str]] = {}
    for i, name in enumerate(names):
        copies = [j for j in range(i) if plain[j] == plain[i]]
        if copies:
            first = names[copies[0]]
            wanted[name] = ("semantic_duplicate", wanted[first][1]) if first in wanted else ("duplicate", first)
        elif alike := [j for j in stays if rows[i] @ rows[j] >= AT]:
            wanted[name] = ("semantic_duplicate", names[alike[0]])
        else:
            stays.append(i)
    found = dropped(folder)
    assert {name: (line["reason"], line["partner"]) for name, line in found.items()} == wanted
    counted = [reason for reason, _ in wanted.values()]
    assert counted.count("duplicate") >= 1 and 4 <= counted.count("semantic_duplicate") < len(names) / 2
    for line in found.values():
        if line["reason"] == "semantic_duplicate":
            assert line["likeness"] >= AT and line["partner"] not in found
    assert f"{counted.count('semantic_duplicate')} are alike by vectors" in " ".join(capsys.readouterr().out.split())
    page = (folder / "runs" / "dirty" / "report.html").read_text()
    assert "rows were compared by vectors, each with all before it" in page and "are alike by vectors" in page


    moved = next(i for i, text in enumerate(texts) if text.startswith("Name a fact about the number 23."))
    assert found[names[moved]]["reason"] == "semantic_duplicate" and texts[names.index(found[names[moved]]["partner"])].startswith("Question 2")
    assert all(line["partner"] not in found for line in found.values())


def test_of_rows_alike_the_first_stays_that_does_not_leak(curate: Command, folder: Path) -> None:
    lines = (folder / "first.jsonl").read_text().splitlines()
    copied = json.loads(lines[24])
    reordered = dict(copied, prompt="Think first. " + " ".join(reversed(copied["prompt"].replace(" Think first.", "").split())))
    (folder / "second.jsonl").write_text(json.dumps(reordered) + "\n")
    assert curate("run", *SEMANTIC, "hygiene.decontaminate=true", "--until", "prepare", *QUIET) == 0
    names, texts = whole_of(folder)
    late = next(i for i, text in enumerate(texts) if text.startswith("Think first."))
    leak = next(i for i, text in enumerate(texts) if text.startswith("Solve this."))
    rows = unit(folder, texts)
    found = dropped(folder)
    assert rows[late] @ rows[leak] > AT and found[names[leak]]["reason"] == "leak" and names[late] not in found


@pytest.mark.parametrize("at", [0.97, 0.9999])
def test_a_higher_cosine_leaves_out_fewer_and_identical_words_go_at_any(curate: Command, folder: Path, at: float) -> None:
    assert curate("run", *SEMANTIC, f"hygiene.semantic.at={at}", "--until", "prepare", *QUIET) == 0
    names, texts = whole_of(folder)
    found, rows = dropped(folder), unit(folder, texts)
    kept = [i for i, name in enumerate(names) if name not in found]
    close = rows[kept] @ rows[kept].T
    assert close[~np.eye(len(kept), dtype=bool)].max() < at
    assert all(rows[names.index(name)] @ rows[names.index(line["partner"])] >= at - 1e-6 for name, line in found.items())
    assert [i for i in kept if texts[i].startswith("question 20:")] == []


def test_the_same_bytes_for_any_number_of_workers(curate: Command, folder: Path, command_line: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curate("run", *SEMANTIC, NEAR, "--until", "prepare", *QUIET) == 0
    other = ("--store", folder / "other", "--runs", folder / "runs")
    assert command_line("run", folder / "dirty.yaml", *SEMANTIC, NEAR, "--until", "prepare", "--quiet", "--workers", "2", *other) == 0
    for stage in ("vectors", "semantic", "near_leaks", "leaks", "clean"):
        assert indices(folder / "store", stage) == indices(folder / "other", stage) != {}


def test_a_run_that_was_killed_goes_on_where_it_was_and_comes_to_the_same(curate: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ROWS", 8)
    monkeypatch.setattr(near_leaks, "ROWS", 2)
    arguments = (*SEMANTIC, NEAR, "--until", "prepare", *QUIET)
    assert curate("run", *arguments) == 0
    wanted = {stage: indices(folder / "store", stage) for stage in ("vectors", "semantic", "near_leaks", "leaks", "clean")}
    (folder / "store").rename(folder / "first store")
    real, embedded_rows = embedded.embed, []

    def dies(task: embedded.EmbedTask) -> int:
        if len(embedded_rows) == 2:
            raise KeyboardInterrupt
        embedded_rows.append(task.start)
        return real(task)

    monkeypatch.setattr(embedded, "embed", dies)
    assert curate("run", *arguments) != 0
    monkeypatch.setattr(embedded, "embed", real)
    committed: list[str] = []
    commit = embedded.Workspace.commit
    monkeypatch.setattr(embedded.Workspace, "commit", lambda self, name, *rest: committed.append(name) or commit(self, name, *rest))
    assert curate("run", *arguments) == 0
    assert {stage: indices(folder / "store", stage) for stage in wanted} == wanted
    first = [name for name in committed if name.startswith("vectors-")]
    shards = len(list((folder / "first store").glob("vectors-*/vectors-*.safetensors")))  # of the questions and of the rows
    assert shards >= 8 and "vectors-00002.safetensors" in first and len(first) == shards - 2


def test_a_row_that_is_lost_is_seen(curate: Command, folder: Path) -> None:
    assert curate("run", *SEMANTIC, "--until", "prepare", *QUIET) == 0
    cleaned = one(folder, "clean")
    whole = Artifact("", folder / "store" / json.loads((cleaned / "manifest.json").read_bytes())["inputs"][0], {})
    assert unaccounted(Artifact("", cleaned, {}), whole) == []
    table = pq.read_table(cleaned / "index.parquet")
    pq.write_table(table.slice(1), cleaned / "index.parquet")
    assert "rows came in" in unaccounted(Artifact("", cleaned, {}), whole)[0]


def test_a_second_run_reads_everything_from_the_store_and_another_cosine_embeds_nothing_again(
    curate: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert curate("run", *SEMANTIC, "--until", "prepare", *QUIET) == 0
    monkeypatch.setattr(embedded, "embed", lambda _: pytest.fail("embedded again"))
    assert curate("run", *SEMANTIC, "--until", "prepare", *QUIET) == 0
    assert curate("run", *SEMANTIC, "hygiene.semantic.at=0.5", "--until", "prepare", *QUIET) == 0
    assert len(list((folder / "store").glob("semantic-*"))) == 2


def test_the_model_of_the_recipe_serves_as_encoder_and_a_useless_one_is_doubted(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", "hygiene.semantic={encoder: rds, at: 0.3}", "hygiene.deduplicate=semantic", "--until", "prepare", *QUIET) == 0
    assert "this encoder hardly tells rows of this pool apart" in " ".join(capsys.readouterr().out.split())
    assert "semantic_duplicate" in {line["reason"] for line in dropped(folder).values()}


def test_items_that_rows_are_alike_to_are_suspicious_at_most_and_both_texts_are_shown(curate: Command, folder: Path) -> None:
    assert curate("run", NEAR, "--until", "prepare", *QUIET) == 0
    found = pq.read_table(one(folder, "leaks") / "leaks.parquet").to_pylist()
    near = [line for line in found if line["kind"] == "vectors"]
    names, texts = whole_of(folder)
    shuffled = next(i for i, text in enumerate(texts) if text.startswith("In the valley a farmer has 230"))
    line = max((line for line in near if line["id"] == names[shuffled]), key=lambda line: float(line["cover"]))
    assert {line["verdict"] for line in near} == {"suspicious"} and line["cover"] >= AT
    assert "farmer has 230 sheep" in line["row_text"] and "A farmer has 230 sheep" in line["item_text"] and line["matched"].startswith("no words, cosine 0.9")
    assert {line["verdict"] for line in found if line["kind"] != "vectors"} >= {"dirty"}
    page = (folder / "runs" / "dirty" / "report.html").read_text()
    assert "In the valley a farmer has 230 sheep" in page and "no words, cosine 0.9" in page
    one_of = json.loads((folder / "runs" / "dirty" / "results.json").read_bytes())["hygiene"]["benchmarks"]
    evaluation = next(one for one in one_of if one["role"] == "evaluation")
    assert evaluation["dirty"] == 1 and evaluation["suspicious"] >= 1


def test_near_items_are_those_of_brute_force_and_allowed_ones_are_not_reported(curate: Command, folder: Path) -> None:
    assert curate("run", NEAR, "--until", "prepare", *QUIET) == 0
    near = pq.read_table(one(folder, "near_leaks") / "leaks.parquet").to_pylist()
    names, texts = whole_of(folder)
    rows = unit(folder, [text.split("\n")[0] for text in texts])
    sets: dict[int, list[tuple[str, str]]] = {}
    for line in (one(folder, "near_leaks") / "items.jsonl").read_text().splitlines():
        number, name, question, _ = json.loads(line)
        sets.setdefault(number, []).append((name, question))
    wanted: set[tuple[str, int, str]] = set()
    for number, items in sets.items():
        close = rows @ unit(folder, [question for _, question in items]).T
        wanted |= {(names[i], number, items[int(close[i].argmax())][0]) for i in np.flatnonzero(close.max(axis=1) >= AT)}
        wanted |= {(names[int(close[:, j].argmax())], number, items[j][0]) for j in np.flatnonzero(close.max(axis=0) >= AT)}
    assert {(line["id"], line["benchmark"], line["item"]) for line in near} == wanted and len(wanted) >= 2
    allow = ", ".join(sorted({item for _, _, item in wanted}))
    assert curate("run", NEAR, f"hygiene.leaks.allow=[{allow}]", "--until", "prepare", *QUIET) == 0
    left = [pq.read_table(path / "leaks.parquet").num_rows for path in (folder / "store").glob("near_leaks-*")]
    assert sorted(left) == [0, len(near)]


def test_suspicious_rows_by_vectors_go_only_where_suspicious_ones_are_to_go(curate: Command, folder: Path) -> None:
    for drop, gone in (("dirty", False), ("suspicious", True)):
        assert curate("run", NEAR, "hygiene.decontaminate=true", f"hygiene.drop={drop}", "--until", "prepare", *QUIET) == 0
        names, texts = whole_of(folder)
        shuffled = next(i for i, text in enumerate(texts) if text.startswith("In the valley a farmer has 230"))
        cleaned = max((folder / "store").glob("clean-*"), key=lambda path: path.stat().st_mtime)
        assert (names[shuffled] in pq.read_table(cleaned / "dropped.parquet")["id"].to_pylist()) == gone


def test_inspect_names_both_before_anything_is_computed(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("inspect", *SEMANTIC, f"{NEAR}") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"semantic duplicates among \d+ rows: \d+, such as \w+.jsonl:\d+ of first.jsonl:\d+ \(cosine (0.9\d|1.00)\)", said)
    assert re.search(r"near-copies of evaluation likelihood by vectors: \d of its first 3 items are suspicious", said)
    assert not (folder / "store").exists()


def test_lookup_verify_and_explain_know_of_it(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from curate.pipelines.plan_found import look_up, lookup_session

    assert curate("run", *SEMANTIC, NEAR, "--until", "select", *QUIET) == 0
    lookup = lookup_session(folder / "store", folder / "runs", folder, "cpu", 1, None)
    assert look_up(read_recipe(folder / "dirty.yaml", (*SEMANTIC, NEAR)), lookup).pool.path == one(folder, "clean")
    assert all(lookup.seen[stage, label] and all(lookup.seen[stage, label].values()) for stage, label in lookup.seen if stage in ("vectors", "semantic"))
    assert {"vectors", "semantic", "near_leaks", "clean"} <= {stage for stage, _ in lookup.seen}
    assert curate("verify") == 0
    line = next(line for line in dropped(folder).values() if line["reason"] == "semantic_duplicate")
    capsys.readouterr()
    assert curate("explain", line["id"]) == 0
    said = "".join(capsys.readouterr().out.split())
    assert "semantic_duplicate" in said and line["partner"] in said and f"cosine{line['likeness']:.2f}" in said


@pytest.mark.parametrize(
    ("hygiene", "said"),
    [
        ("{semantic: {encoder: loss}}", "scorer loss yields scores, not vectors"),
        ("{semantic: {encoder: less}}", "scorer less reads more than its row"),
        ("{leaks: {near: {encoder: rds}}}", "items of evaluations are texts, and scorer rds reads hidden"),
        ("{semantic: {encoder: embd}}", "embed"),
        ("{semantic: {at: 0}}", "greater than 0"),
        ("{deduplicate: meaning}", "semantic"),
    ],
)
def test_an_encoder_that_cannot_serve_is_refused_in_the_recipe(folder: Path, hygiene: str, said: str) -> None:
    text = (folder / "dirty.yaml").read_text() + f"hygiene: {hygiene}\n"
    with pytest.raises(ConfigError, match="hygiene") as refused:
        parse_recipe(load_yaml(text.encode(), "dirty.yaml"))
    assert said in str(refused.value)


def test_an_encoder_that_is_not_there_is_one_line(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", "hygiene.semantic={encoder: {name: embed, path: ./absent}}", "hygiene.deduplicate=semantic", "--until", "prepare", *QUIET) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert "hygiene: encoder './absent' is not a folder" in " ".join(said)
