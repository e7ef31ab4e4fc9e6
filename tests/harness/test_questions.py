"""The texts that a model is asked, written out by hand after lm-eval 0.4.13's rules."""

import random
from pathlib import Path

import pytest

from curate.errors import DataError
from tests.harness.asking import CHOICES, ROWS, ask, first

TEXT = 'task: demo\ndata: rows.jsonl\noutput_type: {}\ndoc_to_text: "Q: {{{{q}}}}\\nA:"\ndoc_to_target: "{{{{a}}}}"\n'
PAIRS = [{"q": f"What is {i}?", "a": f"it is {i}"} for i in range(5)]


def test_choices_follow_the_text_and_the_delimiter(tmp_path: Path) -> None:
    question = first(tmp_path)
    assert question.requests == (("q0", " no"), ("q0", " yes"))
    assert (question.choices, question.targets, question.shots) == (("no", "yes"), (0,), ())


def test_examples_carry_their_answers_between_the_delimiters(tmp_path: Path) -> None:
    text = CHOICES + 'num_fewshot: 2\nfewshot_split: train\nfewshot_config: {sampler: first_n}\ndescription: "Answer {{about}}.\\n"\n'
    question = first(tmp_path, text, train=ROWS[1:])
    assert question.context == "Answer 0 0.\nq1 yes\n\nq2 no\n\nq0"
    assert [shot[:6] for shot in question.shots] == ["000000", "000001"]


def test_fewshot_config_says_how_examples_are_written_and_the_task_how_questions_are(tmp_path: Path) -> None:
    own = '{sampler: first_n, doc_to_text: "<{{question}}>", doc_to_choice: ["N", "Y"], target_delimiter: "=", fewshot_delimiter: ";"}'
    text = CHOICES + f'num_fewshot: 2\nfewshot_split: train\nfewshot_config: {own}\ntarget_delimiter: "->"\nfewshot_delimiter: "|"\n'
    assert first(tmp_path, text, train=ROWS).requests == (("<q0>=N;<q1>=Y;q0", "->no"), ("<q0>=N;<q1>=Y;q0", "->yes"))


@pytest.mark.parametrize(
    ("prefix", "context"),
    [
        ("Answer:", "q1 Answer: yes\n\nq0 Answer:"),  # a space where text and prefix would touch
        (" Answer: ", "q1 Answer: yes\n\nq0 Answer: "),  # none where either has white space
        ("{{about}}", "q1 1 1 yes\n\nq0 0 0"),
    ],
)
def test_a_generation_prefix_stands_before_the_answer(tmp_path: Path, prefix: str, context: str) -> None:
    text = CHOICES + f'num_fewshot: 1\nfewshot_split: train\ngen_prefix: "{prefix}"\n'
    assert first(tmp_path, text, train=[ROWS[1]]).context == context


def test_an_example_without_an_answer_has_no_delimiters(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + "num_fewshot: 1\nfewshot_split: train\n"
    assert first(tmp_path, text, PAIRS, train=[{"q": "Why?", "a": ""}]).context == "Q: Why?\nA:Q: What is 0?\nA:"


def test_of_a_list_of_answers_an_example_shows_the_first(tmp_path: Path) -> None:
    text = TEXT.format("generate_until").replace('"{{a}}"', "several") + "num_fewshot: 1\nfewshot_split: train\n"
    rows = [{"q": "Which?", "several": ["red", "blue"]}]
    question = first(tmp_path, text, rows, train=rows)
    assert question.context == "Q: Which?\nA: red\n\nQ: Which?\nA:"
    assert question.targets == ("red", "blue")


def test_a_number_as_text_makes_prompts_of_the_choices(tmp_path: Path) -> None:
    text = CHOICES.replace("doc_to_target: label", "doc_to_target: about").replace('"{{question}}"', '"{{label}}"') + "num_fewshot: 1\nfewshot_split: train\n"
    question = first(tmp_path, text, ROWS, train=[ROWS[1]])
    assert question.requests == (("yes 1 1\n\nno", " 0 0"), ("yes 1 1\n\nyes", " 0 0"))
    assert question.targets == (0,)
    led = first(tmp_path, text + "gen_prefix: '{{about}}:'\n", ROWS, train=[ROWS[1]])
    assert led.requests[0] == ("yes 1 1: 1 1\n\nno0 0:", " 0 0")  # no delimiter before the prefix of a prompt


def test_mutual_information_asks_the_choices_alone_as_well(tmp_path: Path) -> None:
    text = CHOICES + "metric_list:\n- {metric: acc_mutual_info}\n"
    assert first(tmp_path, text).requests == (("q0", " no"), ("q0", " yes"), ("", " no"), ("", " yes"))


def test_the_other_output_types_ask_for_what_they_score(tmp_path: Path) -> None:
    assert first(tmp_path, TEXT.format("loglikelihood"), PAIRS).requests == (("Q: What is 0?\nA:", "it is 0"),)  # no delimiter
    assert first(tmp_path, TEXT.format("loglikelihood_rolling"), PAIRS).requests == (("", "it is 0"),)
    generated = first(tmp_path, TEXT.format("generate_until"), PAIRS)
    assert (generated.requests, generated.targets) == ((("Q: What is 0?\nA:", ""),), ("it is 0",))


@pytest.mark.parametrize(
    ("target", "numbers"),
    [
        ("label", [(0,), (1,), (0,), (1,)]),  # a column of numbers
        ('"{{label}}"', [(0,), (1,), (0,), (1,)]),  # a rendered number
        ('"{{options[label]}}"', [(0,), (1,), (0,), (1,)]),  # the text of a choice
        ('"{{[label, 1]}}"', [(0, 1), (1, 1), (0, 1), (1, 1)]),  # several right choices
        ("1", [(1,)] * 4),  # the same for all
        ('"{{label + 1}}"', [(1,), (), (1,), ()]),  # one past the last choice
    ],
)
def test_right_choices_are_numbers(tmp_path: Path, target: str, numbers: list[tuple[int, ...]]) -> None:
    found = ask(tmp_path, CHOICES.replace("label", target))
    assert [question.targets for question in found.questions] == numbers
    missing = numbers.count(())
    assert found.notes == ((f"demo: the answer of {missing} documents is none of their choices; they count as wrong",) if missing else ())


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [('["A", "B"]', ("A", "B")), ("{first: a, second: b}", ("a", "b")), ('"{{options}}"', ("no", "yes")), ("\"{{['x', about]}}\"", ("x", "0 0"))],
)
def test_choices_are_a_list_a_mapping_a_column_or_a_rendered_list(tmp_path: Path, choices: str, wanted: tuple[str, ...]) -> None:
    assert first(tmp_path, CHOICES.replace("doc_to_choice: options", f"doc_to_choice: {choices}")).choices == wanted


def test_a_bare_column_name_is_the_column_as_it_is(tmp_path: Path) -> None:
    text = TEXT.format("generate_until").replace('"{{a}}"', "share")
    rows = [{"q": "Half of one?", "share": 0.5}]
    assert first(tmp_path, text, rows).targets == ("0.5",)
    assert first(tmp_path, text.replace("share", '"share"'), rows).targets == ("0.5",)
    assert first(tmp_path, text.replace("share", '" share"'), rows).targets == (" share",)


def drawn(n: int, pool: int, asked: int, *, struck: bool) -> list[list[int]]:
    """The examples of each document by their numbers, by lm-eval's description of its sampler."""
    generator = random.Random(1234)
    found = []
    for number in range(asked):
        picked = generator.sample(list(range(pool)), n + struck)
        found.append([other for other in picked if not (struck and other == number)][:n])
    return found


@pytest.mark.parametrize(
    ("splits", "pool", "struck"),
    [
        ("test_split: test\nfewshot_split: test", "test", True),
        ("validation_split: test", "test", True),  # fewshot_split and test_split are both unset
        ("test_split: test\nfewshot_split: train", "train", False),
        ("test_split: test\ntraining_split: train", "train", False),
        ("validation_split: test\ntraining_split: train", "train", True),  # strikes nothing out, and draws one more all the same
    ],
)
def test_examples_are_drawn_as_described(tmp_path: Path, splits: str, pool: str, struck: bool) -> None:
    train = [{"q": f"train {i}", "a": f"{i}"} for i in range(9)]
    text = TEXT.format("generate_until") + f"num_fewshot: 3\n{splits}\n"
    found = ask(tmp_path, text, PAIRS, train=train)
    assert found.notes == ()
    numbers = [[int(shot[:6]) for shot in question.shots] for question in found.questions]
    if pool == "train":
        assert numbers == [picked[:3] for picked in drawn(3 + (struck and pool == "train"), 9, 5, struck=False)]
    else:
        assert numbers == drawn(3, 5, 5, struck=True)


def test_a_limit_keeps_the_first_documents_and_their_examples(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + "num_fewshot: 2\ntest_split: test\nfewshot_split: test\n"
    assert ask(tmp_path, text, PAIRS, limit=2, train=PAIRS).questions == ask(tmp_path, text, PAIRS, train=PAIRS).questions[:2]


def test_copies_of_the_document_are_struck_out_and_others_drawn(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + "num_fewshot: 2\n"
    rows = [PAIRS[0]] * 4 + PAIRS[1:]
    generator = random.Random(1234)
    again = 0
    for document, question in zip(rows, ask(tmp_path, text, rows).questions, strict=True):
        picked = [row for row in generator.sample(rows, 3) if row != document][:2]
        if len(picked) < 2:
            again += 1
            picked = generator.sample([row for row in rows if row != document], 2)
        shots = "".join(f"Q: {row['q']}\nA: {row['a']}\n\n" for row in picked)
        assert question.context == shots + f"Q: {document['q']}\nA:"
    assert again > 0


def test_first_n_leaves_the_document_out_where_the_pool_is_what_is_asked(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + "num_fewshot: 2\nfewshot_config: {sampler: first_n}\n"
    found = ask(tmp_path, text, PAIRS)
    assert [[int(shot[:6]) for shot in question.shots] for question in found.questions] == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_a_question_among_its_own_examples_is_reported(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + "num_fewshot: 3\ntest_split: test\n"  # lm-eval draws from `test` and strikes nothing out
    found = ask(tmp_path, text, PAIRS, other=PAIRS)
    own = sum(question.id in question.shots for question in found.questions)
    assert own > 0 and found.notes[0].startswith(f"demo: {own} questions have themselves among their few-shot examples")


def test_examples_may_be_written_out(tmp_path: Path) -> None:
    text = TEXT.format("generate_until") + 'num_fewshot: 1\ntest_split: test\nfewshot_config: {samples: [{q: "Sky?", a: blue}]}\n'
    assert first(tmp_path, text, PAIRS, other=PAIRS).context == "Q: Sky?\nA: blue\n\nQ: What is 0?\nA:"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": "question"}, "demo.yaml:6: doc_to_choice: document 000000-"),
        ({"options": '"{{question}}"'}, "demo.yaml:6: doc_to_choice: gives 'q0', which is no list; document 000000-"),
        ({"options": '"{{[label]}}"'}, "choice 0 is 0; choices are texts that are not empty"),
        ({"label": "share"}, "demo.yaml:5: doc_to_target: document 000000-"),
        ({"label": '"{{label + 2}}"'}, "demo.yaml:5: doc_to_target: the answer of no document is one of its choices"),
        ({"label": '"{{label if label else [label]}}"'}, "document 000001-"),
        ({'"{{question}}"': "share"}, "demo.yaml:4: doc_to_text: document 000000-"),
        ({'"{{question}}"': '"{{0 if label else question}}"'}, "only one of them gives the number of a choice"),
    ],
)
def test_what_cannot_be_asked_names_the_key_and_the_document(tmp_path: Path, change: dict[str, str], said: str) -> None:
    text = CHOICES
    for old, new in change.items():
        text = text.replace(f": {old}", f": {new}")
    with pytest.raises(DataError) as caught:
        ask(tmp_path, text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="demo.yaml:7: num_fewshot is 4, but split 'test' has 4 documents, without the one that is asked"):
        ask(tmp_path, CHOICES + "num_fewshot: 4\n")
    with pytest.raises(DataError, match="demo.yaml:8: fewshot_split: there is no data for split 'train', only for test; give data: {train: FILE"):
        ask(tmp_path, CHOICES + "num_fewshot: 1\nfewshot_split: train\n")
