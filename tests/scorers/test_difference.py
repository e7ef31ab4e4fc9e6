"""The difference of two models' losses on a row, by transformers' own losses, for equal and for different tokenizers."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.companion import load, locate, tokenization
from curate.core import Row, Turns, Written
from curate.data.conversation import Conversation
from curate.data.template import Encoder
from curate.errors import ConfigError, DataError, ModelError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, fresh, resolve
from curate.passes import read
from curate.scorers.difference import Difference
from curate.scorers.loss import Loss
from curate.settings import ModelSpec
from curate.testing import check_scorer

CHARACTERS = [chr(code) for code in range(32, 127)] + ["\u00e9", "\u4f60", "\n"]
SPECIAL = ["[unk]", "[end]", "[user]", "[assistant]"]
CHATS: list[Turns] = [
    (("user", "What is 2 + 2?"), ("assistant", "It is 4.")),
    (("user", "Say it in French."), ("assistant", "Caf\u00e9, \u4f60.")),  # 13 bytes, 8 characters
    (("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two and a half")),
    (("user", "Spell [end] for me."), ("assistant", "[end]")),  # a special token of one of the tokenizers
]


def model_of(context: ScoringContext) -> LanguageModel:
    assert context.model is not None
    return context.model


def loss(model: Any, ids: list[int], supervised: list[bool]) -> float:
    """The sum over the tokens that carry loss, by transformers."""
    labels = [token if marked else -100 for token, marked in zip(ids, supervised, strict=True)]
    with torch.no_grad():
        mean = float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)
    return mean * sum(supervised[1:])


def row_loss(model: Any, row: Row) -> float:
    return loss(model, row.input_ids.tolist(), row.supervised.tolist())


def small_llama(folder: Path, vocabulary: int, seed: int, **sizes: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    fields: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, initializer_range=0.3, **{**fields, **sizes})).eval()
    model.save_pretrained(folder)
    return model


def save_characters(folder: Path, words: list[str]) -> None:
    """A tokenizer of one token per character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unk]"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[unk]", eos_token="[end]", extra_special_tokens=["[user]", "[assistant]"])
    template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% if m.role == 'assistant' %}[end]{% endif %}{% endfor %}"
    tokenizer.chat_template = template + "{% if add_generation_prompt %}[assistant]{% endif %}"
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def better(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("teachers") / "better"))
    model = fresh(resolve(ModelSpec(path=str(tiny)), tiny)).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that reads characters."""
    folder = tmp_path_factory.mktemp("spelling")
    small_llama(folder, len(SPECIAL) + len(CHARACTERS), seed=1)
    save_characters(folder, SPECIAL + CHARACTERS)
    return folder


@pytest.fixture(scope="module")
def spelt(spelling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one with the same tokenizer."""
    folder = Path(shutil.copytree(spelling, tmp_path_factory.mktemp("spelt") / "model"))
    small_llama(folder, len(SPECIAL) + len(CHARACTERS), seed=2)
    return folder


@pytest.fixture(scope="module")
def chats(base: ScoringContext) -> list[Row]:
    """The conversations, and one plain text, in the tokens of the run's own model."""
    encoder = Encoder.of(model_of(base).tokenizer, 512)
    encoded = encoder.encode([*(Conversation(messages=turns) for turns in CHATS), Conversation(text="plain words")])
    contents = [*map(Written, CHATS), Written((("", "plain words"),))]
    return [replace(row, content=content) for row, content in zip(encoded, contents, strict=True) if isinstance(row, Row)]


def spelt_out(turns: Turns) -> tuple[list[int], list[bool]]:
    """Ids and answer marks of a conversation, or of plain text, character by character."""
    ids: list[int] = []
    marks: list[bool] = []
    for role, text in turns:
        answer = role in ("assistant", "")
        tokens = [SPECIAL.index("[assistant]" if role == "assistant" else "[user]")] if role else []
        letters = [len(SPECIAL) + CHARACTERS.index(letter) for letter in text] + [SPECIAL.index("[end]")] * answer
        ids += tokens + letters
        marks += [False] * len(tokens) + [answer] * len(letters)
    return ids, marks


def by_transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def test_identical_models_differ_by_exactly_nothing(base: ScoringContext, tiny: Path, spelling: Path, some_rows: list[Row], chats: list[Row]) -> None:
    for rows in (some_rows, chats, some_rows[:1]):
        assert Difference(teacher=str(tiny)).score(model_of(base).batch(rows), base).eq(0).all()
    assert Difference(teacher=str(spelling), reference=str(spelling)).score(model_of(base).batch(chats), base).eq(0).all()


def test_the_score_per_token_is_the_loss_less_the_teachers(base: ScoringContext, tiny: Path, better: Path, some_rows: list[Row]) -> None:
    model, teacher = model_of(base), by_transformers(better)
    batch = model.batch(some_rows)
    wanted = [(row_loss(model.model, row) - row_loss(teacher, row)) / row.supervised[1:].sum() for row in some_rows]
    found = Difference(teacher=str(better)).score(batch, base)
    assert found.dtype == torch.float32 and min(map(abs, wanted)) > 0.01
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    turned = Difference(teacher=str(tiny), reference=str(better)).score(batch, base)
    assert turned.tolist() == pytest.approx([-value for value in wanted], abs=1e-4)


def test_the_score_per_byte_is_that_of_each_model_in_its_own_tokens(base: ScoringContext, tiny: Path, spelling: Path, chats: list[Row]) -> None:
    model, teacher = model_of(base), by_transformers(spelling)
    sizes = [len("\n".join(text for role, text in row.content.turns if role != "user").encode()) for row in chats]
    wanted = [(row_loss(model.model, row) - loss(teacher, *spelt_out(row.content.turns))) / size for row, size in zip(chats, sizes, strict=True)]
    found = Difference(teacher=str(spelling)).score(model.batch(chats), base)
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    turned = Difference(teacher=str(tiny), reference=str(spelling)).score(model.batch(chats), base)
    assert turned.tolist() == pytest.approx([-value for value in wanted], abs=1e-4)


def test_two_models_of_one_other_tokenizer_are_compared_per_token(base: ScoringContext, spelling: Path, spelt: Path, chats: list[Row]) -> None:
    teacher, reference = by_transformers(spelling), by_transformers(spelt)
    told = [spelt_out(row.content.turns) for row in chats]
    wanted = [(loss(reference, ids, marks) - loss(teacher, ids, marks)) / sum(marks[1:]) for ids, marks in told]
    found = Difference(teacher=str(spelling), reference=str(spelt)).score(model_of(base).batch(chats), base)
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_another_template_alone_makes_the_unit_bytes(base: ScoringContext, tiny: Path, tmp_path: Path, chats: list[Row]) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "instructed"))
    (folder / "chat_template.jinja").write_text((tiny / "chat_template.jinja").read_text().replace("message['content'] }}", "message['content'] }} "))
    model = model_of(base)
    other = Encoder.of(load(locate(str(folder), None, "float32", tmp_path)).model.tokenizer, 512)
    encoded = other.row([{"role": role, "content": text} for role, text in CHATS[0]])
    assert encoded is not None and len(encoded.input_ids) != len(chats[0].input_ids)
    found = Difference(teacher=str(folder)).score(model.batch(chats), base)
    wanted = (row_loss(model.model, chats[0]) - row_loss(model.model, encoded)) / len("It is 4.")
    assert float(found[0]) == pytest.approx(wanted, abs=1e-4)


def test_rows_that_cannot_be_read_are_nan_alone(base: ScoringContext, better: Path, spelling: Path, tmp_path: Path, chats: list[Row]) -> None:
    model = model_of(base)
    long = replace(chats[0], input_ids=np.resize(chats[0].input_ids, 60), supervised=np.resize(chats[0].supervised, 60))
    silent = replace(chats[0], supervised=np.zeros_like(chats[0].supervised))
    short = Path(shutil.copytree(better, tmp_path / "short"))
    fields = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**fields, "max_position_embeddings": 40}))
    scorer = Difference(teacher=str(short))
    found = scorer.score(model.batch([long, chats[0], silent, chats[1]]), base)
    assert found.isnan().tolist() == [True, False, True, False]
    torch.testing.assert_close(found[[1, 3]], scorer.score(model.batch(chats[:2]), base), rtol=1e-4, atol=1e-5)
    assert scorer.score(model.batch([long]), base).isnan().all()
    verbose = replace(chats[0], content=Written((("user", "x" * 300), ("assistant", "y"))))
    blank = replace(chats[0], content=Written((("user", "x"), ("assistant", " "))))
    broken = replace(chats[0], content=Written((("user", "x"), ("assistant", "\ud800"))))
    spoken = Difference(teacher=str(spelling))
    found = spoken.score(model.batch([replace(chats[0], content=Written()), chats[0], verbose, blank, broken, silent, chats[1]]), base)
    assert found.isnan().tolist() == [True, False, True, True, True, True, False]
    torch.testing.assert_close(found[[1, 6]], spoken.score(model.batch(chats[:2]), base), rtol=1e-4, atol=1e-5)
    assert spoken.score(model.batch([verbose]), base).isnan().all()


def test_the_cap_clips_the_score_and_nothing_else(base: ScoringContext, better: Path, chats: list[Row]) -> None:
    batch = model_of(base).batch([*chats, replace(chats[0], supervised=np.zeros_like(chats[0].supervised))])
    plain = Difference(teacher=str(better)).score(batch, base)
    cap = float(plain[:-1].abs().median())
    capped = Difference(teacher=str(better), cap=cap).score(batch, base)
    assert capped[:-1].equal(plain[:-1].clamp(-cap, cap)) and not capped[:-1].equal(plain[:-1]) and capped[-1].isnan()


def test_the_mean_over_a_teachers_own_text_is_its_divergence_from_the_reference(base: ScoringContext, tmp_path: Path) -> None:
    words, length = [*SPECIAL, "a", "b"], 3
    generator = torch.Generator().manual_seed(3)
    tables = [(2 * torch.randn(len(words), len(words), generator=generator)).log_softmax(1) for _ in range(2)]
    for name, table in zip(("p", "q"), tables, strict=True):  # a Llama without layers, whose head is the table
        model = small_llama(tmp_path / name, len(words), 0, hidden_size=len(words), num_hidden_layers=0)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.eye(len(words)))
            model.lm_head.weight.copy_(table.T / len(words) ** 0.5)  # the norm makes a one-hot vector longer by this
        model.save_pretrained(tmp_path / name)
        save_characters(tmp_path / name, words)
    texts = list(itertools.product(range(len(words)), repeat=length))
    rows = [Row(np.array([0, *text], np.int32), np.arange(length + 1) > 0) for text in texts]
    own = ScoringContext(model=fresh(resolve(ModelSpec(path="q"), tmp_path)), folder=tmp_path)
    scores = Difference(teacher="p").score(model_of(own).batch(rows), own).double()
    p, q = (table.double() for table in tables)
    likely = torch.tensor([sum(float(p[a, b]) for a, b in itertools.pairwise([0, *text])) for text in texts]).double().exp()
    assert float(likely.sum()) == pytest.approx(1, abs=1e-5)
    state, divergence = torch.eye(len(words)).double()[0], 0.0
    for _ in range(length):  # the chain rule of the divergence
        divergence += float(state @ (p.exp() * (p - q)).sum(1))
        state = state @ p.exp()
    assert float((likely * scores).sum()) == pytest.approx(divergence / length, rel=1e-4)


def test_the_runs_own_pass_is_shared_and_spared_where_a_reference_is_named(base: ScoringContext, tiny: Path, better: Path, some_rows: list[Row]) -> None:
    model, calls = model_of(base), []
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        read([(Loss(), base), (Difference(teacher=str(better)), base)], model.batch(some_rows))
        assert len(calls) == 1
        read([(Difference(teacher=str(better), reference=str(tiny)), base)], model.batch(some_rows))
        assert len(calls) == 1
    finally:
        hook.remove()


def test_difference_keeps_the_contract(base: ScoringContext, better: Path, spelling: Path, some_rows: list[Row], chats: list[Row]) -> None:
    check_scorer(Difference(teacher=str(better)), base, some_rows)
    check_scorer(Difference(teacher=str(better), cap=0.1), base, chats)
    check_scorer(Difference(teacher=str(spelling)), base, chats)


def test_a_row_encoded_anew_is_itself_in_any_batch(base: ScoringContext, spelling: Path, chats: list[Row]) -> None:
    model, scorer = model_of(base), Difference(teacher=str(spelling))
    together = scorer.score(model.batch(chats), base)
    torch.testing.assert_close(torch.cat([scorer.score(model.batch([row]), base) for row in chats]), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scorer.score(model.batch(chats[::-1]), base).flip(0), together, rtol=1e-4, atol=1e-5)
    assert scorer.score(model.batch(chats), base).equal(together)


def test_a_saved_or_past_padding_does_not_make_another_tokenizer(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "padded"))
    fields = json.loads((folder / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>"}
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps({**fields, "padding": padding, "truncation": truncation}))
    kept, plain = (load(locate(str(path), None, "float32", tmp_path)) for path in (folder, tiny))
    assert kept.tokenization == plain.tokenization == tokenization(plain.model.tokenizer)


def test_a_companion_reads_as_far_as_it_has_positions(tmp_path: Path) -> None:
    small_llama(tmp_path, len(SPECIAL) + len(CHARACTERS), 0, max_position_embeddings=4096)
    save_characters(tmp_path, SPECIAL + CHARACTERS)
    assert load(locate(".", None, "float32", tmp_path)).encoder.max_length == 4096  # and not 2048, which bounds a run's own model


def test_the_inputs_are_the_fingerprints_of_the_other_models(tiny: Path, better: Path) -> None:
    assert Difference(teacher=better.name).inputs(better.parent) == {"teacher": resolve(ModelSpec(path=str(better)), tiny).fingerprint}
    both = Difference(teacher=str(better), reference=str(tiny)).inputs(tiny)
    assert both["reference"] == resolve(ModelSpec(path=str(tiny)), tiny).fingerprint != both["teacher"]


def test_what_cannot_be_used_is_refused_in_one_line(base: ScoringContext, tiny: Path, spelling: Path, tmp_path: Path, some_rows: list[Row]) -> None:
    batch = model_of(base).batch(some_rows)
    for call in (lambda: Difference().inputs(tmp_path), lambda: Difference().score(batch, base)):
        with pytest.raises(ConfigError, match="difference needs a teacher"):
            call()
    with pytest.raises(ModelError, match=r"^difference\.teacher: path './nowhere' is not a folder") as caught:
        Difference(teacher="./nowhere").inputs(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"^difference\.reference: revision 'v1' is that of a Hub model"):
        Difference(teacher=str(tiny), reference=str(tiny), reference_revision="v1").inputs(tmp_path)
    for fields in ({"teacher_revision": "v1"}, {"teacher": "a/b", "reference_revision": "v1"}):
        with pytest.raises(ValidationError, match="is that of a Hub model, and no"):
            Difference.model_validate(fields)
    with pytest.raises(DataError, match="has them for 0 of 9 rows"):
        Difference(teacher=str(spelling)).score(replace(batch, content=()), base)
