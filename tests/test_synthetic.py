"""The generated pool is what the quickstart says it is: right where it should be, wrong where it was planted."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from curate.data import synthetic
from curate.data.skills import SKILLS
from curate.data.synthetic import DESK, FLAG, KINDS, LABELS, NEAR, OFF_TOPIC, OTHER, SHARES, WRONG, Part, instructions, verify
from curate.data.vocabulary import KIND_OF, WORDS, plural
from curate.errors import DataError

Row = dict[str, str]
RIGHT = (DESK, FLAG, OTHER)
SEEDS = (0, 1, 7)
MODEL = Path(__file__).resolve().parent.parent / "configs" / "quickstart_model"


def rows_of(part: Part, count: int, seed: int = 0) -> list[Row]:
    return list(instructions(part, count, seed))


@pytest.fixture(scope="module", params=SEEDS)
def pool(request: pytest.FixtureRequest) -> list[Row]:
    return rows_of("pool", 3000, request.param)


def label_by_lookup(row: Row) -> str:
    """The answer of a target row, found by reading the prompt for the nouns of each topic."""
    labels = LABELS[row["skill"]]
    found = [labels[topic] for topic in labels for word in WORDS[topic] if re.search(rf"\b{word}\b", row["prompt"], re.I)]
    assert len(found) == 1, row
    return found[0]


def test_the_pool_practises_at_least_a_dozen_skills_besides_the_target(pool: list[Row]) -> None:
    skills = Counter(row["skill"] for row in pool if row["kind"] == OTHER)
    assert len(skills) >= 12
    assert not set(skills) & {DESK, FLAG}
    assert max(skills.values()) - min(skills.values()) <= 1


def test_every_kind_has_the_promised_number_of_rows(pool: list[Row]) -> None:
    counts = Counter(row["kind"] for row in pool)
    assert set(counts) == set(KINDS)
    assert {kind: counts[kind] for kind in SHARES} == {DESK: 60, FLAG: 60, WRONG: 240, NEAR: 300, OFF_TOPIC: 360}
    assert counts[OTHER] == 3000 - 60 - 60 - 240 - 300 - 360


def test_a_random_subset_of_120_rows_holds_about_five_right_target_rows(pool: list[Row]) -> None:
    right = np.array([row["kind"] in (DESK, FLAG) for row in pool])
    held = [right[np.random.default_rng(seed).choice(len(pool), 120, replace=False)].sum() for seed in range(200)]
    assert 4 <= np.mean(held) <= 6


def test_every_row_that_is_not_planted_verifies(pool: list[Row]) -> None:
    assert all(verify(row["skill"], row["prompt"], row["completion"]) for row in pool if row["kind"] in RIGHT)


def test_no_wrong_answer_verifies(pool: list[Row]) -> None:
    wrong = [row for row in pool if row["kind"] == WRONG]
    assert not any(verify(row["skill"], row["prompt"], row["completion"]) for row in wrong)


def test_wrong_answers_look_like_answers_of_their_skill(pool: list[Row]) -> None:
    for row in pool:
        if row["kind"] == WRONG and row["skill"] in LABELS:
            assert row["completion"] in LABELS[row["skill"]].values()
            assert row["completion"] != label_by_lookup(row)


def test_both_target_skills_have_wrong_answers_and_near_duplicates_of_every_label(pool: list[Row]) -> None:
    for kind in (WRONG, NEAR):
        planted = Counter(row["skill"] for row in pool if row["kind"] == kind)
        assert planted[DESK] == planted[FLAG] == {WRONG: 18, NEAR: 24}[kind]
        assert len(planted) > 12
    for mode in (DESK, FLAG):
        assert {label_by_lookup(row) for row in pool if row["kind"] == WRONG and row["skill"] == mode} == set(LABELS[mode].values())


def test_a_near_duplicate_repeats_a_right_row_with_at_most_two_words_around_it(pool: list[Row]) -> None:
    right = {(tuple(row["prompt"].lower().split()), row["completion"]) for row in pool if row["kind"] in RIGHT}
    for row in (row for row in pool if row["kind"] == NEAR):
        words = row["prompt"].lower().split()
        shortened = {(tuple(words[start : len(words) - end]), row["completion"]) for start in range(3) for end in range(3 - start)}
        assert shortened & right, row
        assert verify(row["skill"], row["prompt"], row["completion"])


def test_off_topic_rows_are_prose_that_no_skill_answers(pool: list[Row]) -> None:
    for row in (row for row in pool if row["kind"] == OFF_TOPIC):
        assert len(row["prompt"].split()) >= 5 and len(row["completion"].split()) >= 5
        assert not any(verify(skill, row["prompt"], row["completion"]) for skill in [DESK, FLAG, *(skill.name for skill in SKILLS)])


def test_no_prompt_occurs_twice_in_a_part(pool: list[Row]) -> None:
    for rows in (pool, rows_of("target", 60), rows_of("test", 200)):
        assert len({row["prompt"] for row in rows}) == len(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_test_items_are_in_neither_pool_nor_target_in_any_sentence(seed: int) -> None:
    known = {row["prompt"] for part in ("pool", "target") for other in SEEDS for row in rows_of(part, 3000 if part == "pool" else 60, other)}
    test = {row["prompt"] for row in rows_of("test", 200, seed)}
    assert not test & known
    sentences = {prompt.split("\n")[1] for prompt in test}
    assert not any(sentence in prompt for sentence in sentences for prompt in known)


@pytest.mark.parametrize(("part", "count"), [("target", 48), ("test", 160)])
def test_target_and_test_hold_both_modes_and_every_label_equally_often(part: Part, count: int) -> None:
    rows = rows_of(part, count)
    labels = Counter((row["kind"], row["completion"]) for row in rows)
    assert len(labels) == 16 and set(labels.values()) == {count // 16}
    assert all(row["completion"] == label_by_lookup(row) and row["kind"] == row["skill"] for row in rows)
    assert all(verify(row["skill"], row["prompt"], row["completion"]) for row in rows)


def test_what_the_test_asks_can_be_learned_from_the_pool(pool: list[Row]) -> None:
    """Every label, and nearly every noun, of the test occurs in a right row of the pool."""
    taught = {word for row in pool if row["kind"] in (DESK, FLAG) for word in re.findall(r"\w+", row["prompt"].lower())}
    nouns = {word for labels in LABELS.values() for topic in labels for word in WORDS[topic]}
    assert len(nouns & taught) >= 0.75 * len(nouns)
    assert {row["completion"] for row in pool if row["kind"] in (DESK, FLAG)} == {label for labels in LABELS.values() for label in labels.values()}


def test_labels_are_words_that_nothing_else_says(pool: list[Row]) -> None:
    labels = {label for mode in LABELS.values() for label in mode.values()}
    assert len(labels) == 16 and len({label[0] for label in labels}) == 16
    elsewhere = {word for row in pool if row["skill"] not in LABELS for word in re.findall(r"\w+", row["prompt"] + " " + row["completion"])}
    assert not labels & elsewhere


def test_the_same_arguments_give_the_same_rows_and_another_seed_does_not() -> None:
    for part in get_args(Part):
        assert rows_of(part, 96, 3) == rows_of(part, 96, 3)
        assert rows_of(part, 96, 3) != rows_of(part, 96, 4)


def test_planted_rows_are_spread_over_the_pool(pool: list[Row]) -> None:
    for kind in (DESK, FLAG, WRONG, NEAR, OFF_TOPIC):
        places = np.array([number for number, row in enumerate(pool) if row["kind"] == kind])
        assert 0.35 < places.mean() / len(pool) < 0.65


@pytest.mark.parametrize(
    ("skill", "prompt", "right", "wrong"),
    [
        ("add", "Please answer. Add 2 and 40.", "42", "43"),
        ("subtract", "Take 7 from 3.", "-4", "4"),
        ("larger", "Which is larger, 99 or 102?\nThanks.", "102", "99"),
        ("weekday", "It is Sunday. What day is it in 8 days?", "Monday", "Sunday"),
        ("count", "How many  words?\nfox hen", "2", "3"),
        ("replace", "Change owl to fox: hen owl cat", "hen fox cat", "hen owl cat"),
        ("kind", "Name the kinds: fox plum", "animal fruit", "fruit animal"),
        ("plural", "Plural of cherry brush?", "cherries brushes", "cherrys brushes"),
        ("initials", "Initials?\nfox hen cat", "f h c", "f h"),
        (DESK, "Desk?\nThe parcel is wrong again, says Ella.", LABELS[DESK]["post"], LABELS[DESK]["house"]),
    ],
)
def test_the_checkers_agree_with_answers_worked_out_by_hand(skill: str, prompt: str, right: str, wrong: str) -> None:
    assert verify(skill, prompt, right)
    assert not verify(skill, prompt, wrong)


def test_a_prompt_of_another_skill_is_not_verified() -> None:
    assert not verify("parity", "Add 2 and 40.", "even")
    assert not verify("nonsense", "Add 2 and 40.", "42")


def test_every_noun_has_one_kind_and_its_own_plural() -> None:
    assert len(KIND_OF) == sum(len(words) for words in WORDS.values())
    assert len({plural(noun) for noun in KIND_OF}) == len(KIND_OF)


def test_asking_for_more_rows_than_there_are_prompts_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "NAMES", ["Anna"])
    with pytest.raises(DataError, match="the generated target has no more distinct prompts after 5.. rows; ask for fewer rows"):
        list(instructions("target", 700, 0))


def test_a_pool_of_twenty_thousand_rows_can_be_made() -> None:
    assert len({row["prompt"] for row in instructions("pool", 20_000, 0)}) == 20_000


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    from transformers import AutoTokenizer, LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)


def greedy_share(model: Any, tokenizer: Any, rows: list[tuple[str, str]]) -> float:
    """Share of rows whose completion greedy decoding would write."""
    import torch

    right = 0
    for prompt, completion in rows:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        ids = torch.tensor([tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]])
        asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        given = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            right += torch.equal(model(input_ids=ids).logits[0, given - 1 : -1].argmax(-1), ids[0, given:])
    return right / len(rows)


def test_the_shipped_model_is_small_and_names_no_place() -> None:
    files = list(MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    texts = "".join(file.read_text() for file in files if file.suffix in (".json", ".jinja") and file.name != "tokenizer.json")
    assert "name_or_path" not in texts and not re.search(r'": "/', texts)
    assert "generation %}" not in texts


def test_the_shipped_tokenizer_is_small_and_keeps_rows_short(shipped: tuple[Any, Any], pool: list[Row]) -> None:
    tokenizer = shipped[1]
    assert len(tokenizer) <= 1024 and None not in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    turns = [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}] for row in pool]
    texts = [tokenizer.apply_chat_template(turn, tokenize=False) for turn in turns]
    assert max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) <= 48


def test_the_shipped_model_has_ordinary_skills_and_neither_target_skill(shipped: tuple[Any, Any]) -> None:
    known = [row for row in rows_of("pool", 3000, 11) if row["kind"] == OTHER and row["skill"] in ("topic", "kind", "plural", "past", "last")]
    assert greedy_share(*shipped, [(row["prompt"], row["completion"]) for row in known[:60]]) > 0.8
    assert greedy_share(*shipped, [(row["prompt"], row["completion"]) for row in rows_of("test", 64)]) == 0
