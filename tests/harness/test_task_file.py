"""Task files: read, included, defaulted; and refused in one line that names the file, the line, the key and what to do."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ConfigError, CurateError, DataError, SafetyError
from curate.harness.questions import build_questions
from curate.harness.reading import built_in, parse_task, read_task
from tests.harness.asking import CHOICES, ROWS, task_in, write_rows

SAMPLE = CHOICES + "num_fewshot: 1\nmetric_list:\n  - metric: acc\n    aggregation: mean\nmetadata: {version: 2.0}\n"


def refused(text: str, kind: type[CurateError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        parse_task(text, "demo.yaml")
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("doc_to_text", "doc_to_txt", "demo.yaml:4: doc_to_txt is not a field; did you mean doc_to_text? (fields: task, "),
        ("multiple_choice", "multi_choice", "demo.yaml:3: output_type is 'multi_choice'; it must be 'multiple_choice', "),
        ("num_fewshot: 1", "num_fewshot: -1", "demo.yaml:7: num_fewshot is -1; it must be greater than or equal to 0"),
        ("num_fewshot: 1", "num_fewshot: '1'", "demo.yaml:7: num_fewshot is '1'; it must be a whole number"),
        ("num_fewshot: 1", "fewshot_config: {sampler: balanced}", "demo.yaml:7: fewshot_config.sampler is 'balanced'; it must be 'default' or 'first_n'"),
        ("metric: acc", "metric: f1", "demo.yaml:9: metric_list.0.metric is 'f1'; it must be 'acc', "),
        ("metric: acc", "metric: perplexity", "demo.yaml:9: metric_list.0.metric perplexity is no metric of output_type multiple_choice; "),
        ("metric: acc", "metric: bits_per_byte", "demo.yaml:9: metric_list.0: bits_per_byte is aggregated by bits_per_byte, not by mean"),
        ("    aggregation: mean", "    agregation: mean", "demo.yaml:10: metric_list.0.agregation is not a field; did you mean aggregation? (fields: metric, "),
        ("    aggregation: mean", "    higher_is_better: false", "demo.yaml:9: metric_list.0: acc is better when it is higher"),
        ("    aggregation: mean", "    ignore_case: true", "demo.yaml:9: metric_list.0: acc has no option ignore_case"),
        ("    aggregation: mean", "  - metric: acc", "demo.yaml:10: metric_list.1.metric acc is listed twice; keep one"),
        ("num_fewshot: 1", "dataset_path: parquet", "demo.yaml:2: data and dataset_path both say where the documents are; keep one"),
        ("data: rows.jsonl", "dataset_path: parquet", "demo.yaml:2: dataset_path parquet reads files, but none is named; add dataset_kwargs"),
        ("num_fewshot: 1", "dataset_kwargs: {trust_remote_code: true}", "demo.yaml:7: dataset_kwargs.trust_remote_code is true; it must be False"),
        ("num_fewshot: 1", "group: many", "demo.yaml:7: group names several tasks, and a task file is one; give the files of its tasks one by one"),
        ("num_fewshot: 1", "use_prompt: all", "demo.yaml:7: use_prompt names a prompt of promptsource, which is not read"),
        ("num_fewshot: 1", "doc_to_image: png", "demo.yaml:7: doc_to_image asks about images or sound, and only text is asked here"),
        ("num_fewshot: 1", "include: other.yaml", "demo.yaml:7: include: there is no file "),
        ("num_fewshot: 1", "generation_kwargs: {top_k: 5}", "demo.yaml:7: generation_kwargs.top_k is not a field; did you mean top_p?"),
        ("num_fewshot: 1", "generation_kwargs: {do_sample: true}", "demo.yaml:7: generation_kwargs: do_sample: true needs a temperature above 0"),
        ("num_fewshot: 1", "filter_list: [{name: a, filter: [{function: lowercase}]}]", "demo.yaml:7: filter_list filters generated answers, but output_type"),
        ('"{{question}}"', '"{{question"', "demo.yaml:4: doc_to_text, line 1 of the template: unexpected end of template"),
        ('"{{question}}"', '"a\\n\\n{% for x in y %}"', "demo.yaml:4: doc_to_text, line 3 of the template: "),
        ('"{{question}}"', '"{{question|no_filter}}"', "demo.yaml:4: doc_to_text, line 1 of the template: No filter named 'no_filter'; a template"),
        ("task: demo\n", "", "demo.yaml:1: task is missing, and output_type multiple_choice needs it; add it"),
        ("doc_to_choice: options\n", "", "demo.yaml:1: doc_to_choice is missing, and output_type multiple_choice needs it; add it"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(old: str, new: str, said: str) -> None:
    assert SAMPLE.count(old) >= 1
    assert refused(SAMPLE.replace(old, new, 1)).startswith(said)


@pytest.mark.parametrize(
    ("steps", "repeats", "said"),
    [
        ("[{function: take_first}, {function: lowercase}]", 1, "demo.yaml:7: filter_list.0.filter: take_first leaves one answer, so it must be "),
        ("[{function: regex, regex_pattern: '('}]", 1, "demo.yaml:7: filter_list.0.filter.0.regex_pattern: '(' is no regular expression: "),
        ("[{function: lowercase, fallback: x}]", 1, "demo.yaml:7: filter_list.0.filter.0: lowercase has no option fallback; remove it"),
        ("[{function: take_first_k}]", 1, "demo.yaml:7: filter_list.0.filter.0: take_first_k needs k"),
        ("[{function: take_first_k, k: 3}]", 2, "demo.yaml:7: filter_list.0: take_first_k takes more answers than repeats (2) makes; raise repeats"),
        ("[{function: lowercase}]", 2, "demo.yaml:7: filter_list.0: exact_match reads one of 2 answers; end the filter with take_first or majority_vote"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(steps: str, repeats: int, said: str) -> None:
    text = CHOICES.replace("multiple_choice", "generate_until") + f"filter_list: [{{name: a, filter: {steps}}}]\nrepeats: {repeats}\n"
    assert refused(text).startswith(said)


def test_more_answers_are_needed_than_are_drawn_for_pass_at_k() -> None:
    text = CHOICES.replace("multiple_choice", "generate_until") + "metric_list: [{metric: pass@k, k: [1, 9]}]\nrepeats: 8\n"
    assert refused(text).startswith("demo.yaml:7: metric_list.0.metric pass@9 needs 9 answers to each question, but repeats is 8; raise repeats")


@pytest.mark.parametrize("line", ["process_docs: !function utils.f", "doc_to_choice: !function utils.f", "metric_list: [{metric: !function utils.f}]"])
def test_code_is_refused_whatever_key_names_it(line: str) -> None:
    said = refused("task: demo\n" + line, SafetyError)
    assert said.startswith("demo.yaml:2: !function runs Python code, and code in task files is not run; write a Jinja template")
    assert refused("task: demo\nprocess_docs: utils.f", SafetyError).startswith("demo.yaml:2: process_docs runs Python code")


def test_a_text_that_only_mentions_a_function_is_read() -> None:
    assert parse_task(SAMPLE + 'description: "tag !function is text"\n', "demo.yaml").file.description == "tag !function is text"


def test_included_keys_are_replaced_by_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("output_type: multiple_choice\ndoc_to_text: base\ntarget_delimiter: x\ndoc_to_choice: [a, b]\n")
    (tmp_path / "second").write_text("include: base\ndoc_to_target: second\ntarget_delimiter: y\n")
    (tmp_path / "third").write_text("target_delimiter: z\nnum_fewshot: -3\n")
    (tmp_path / "fourth").write_text("target_delimiter: w\n")
    text = "task: demo\ninclude: [second]\ndoc_to_text: own\n"
    file = parse_task(text, "demo.yaml", tmp_path).file
    assert (file.doc_to_text, file.doc_to_target, file.target_delimiter, file.doc_to_choice) == ("own", "second", "y", ["a", "b"])
    assert parse_task(text.replace("[second]", "[second, fourth]"), "demo.yaml", tmp_path).file.target_delimiter == "w"  # the later one wins
    assert parse_task(text.replace("[second]", "[fourth, second]"), "demo.yaml", tmp_path).file.target_delimiter == "y"
    with pytest.raises(ConfigError, match=r"third:2: num_fewshot is -3"):
        parse_task(text.replace("[second]", "[second, third]"), "demo.yaml", tmp_path)


def test_an_error_about_an_included_template_names_the_included_file(tmp_path: Path) -> None:
    (tmp_path / "base").write_text('output_type: generate_until\n\ndoc_to_text: "{{missing}}"\n')
    task = task_in(tmp_path, "task: demo\ninclude: base\ndata: rows.jsonl\ndoc_to_target: label\n")
    with pytest.raises(DataError, match=r"base:3: doc_to_text, line 1 of the template: 'missing' is undefined"):
        build_questions(task)


def test_files_that_include_themselves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("include: two\n")
    (tmp_path / "two").write_text("task: demo\ninclude: one\n")
    with pytest.raises(ConfigError, match=r"two:2: include: one includes itself"):
        parse_task("include: one\n", "demo.yaml", tmp_path)


def test_what_is_ignored_is_said() -> None:
    task = parse_task(SAMPLE + "should_decontaminate: true\ntag: [a, b]\ntask_alias: Demo\n", "demo.yaml")
    assert [note.partition(" ")[0] + " " + note.split()[1] for note in task.notes] == [
        "demo.yaml:13: tag",
        "demo.yaml:14: task_alias",
        "demo.yaml:12: should_decontaminate",
    ]
    assert parse_task(SAMPLE, "demo.yaml").notes == ()
    assert "generation_kwargs says nothing" in parse_task(SAMPLE + "generation_kwargs: {until: [x]}\n", "demo.yaml").notes[0]


def test_the_defaults_are_those_of_the_harness() -> None:
    file = parse_task("task: demo\ndoc_to_text: q\ndoc_to_target: a\n", "demo.yaml").file
    assert (file.output_type, file.target_delimiter, file.fewshot_delimiter, file.repeats, file.shots) == ("generate_until", " ", "\n\n", 1, 0)
    assert (file.until, file.max_gen_toks, [metric.metric for metric in file.metrics]) == (["\n\n"], 256, ["exact_match"])
    sampled = "generation_kwargs: {until: stop, max_new_tokens: 9, temperature: 0.5}\n"
    given = parse_task(f"task: demo\ndoc_to_text: q\ndoc_to_target: a\n{sampled}", "demo.yaml").file
    assert given.generation_kwargs is not None
    assert (given.until, given.max_gen_toks, given.generation_kwargs.samples) == (["stop"], 9, True)
    rolling = parse_task(CHOICES.replace("multiple_choice", "loglikelihood_rolling"), "demo.yaml").file
    assert [metric.metric for metric in rolling.metrics] == ["word_perplexity", "byte_perplexity", "bits_per_byte"]


def test_unquoted_yes_and_no_are_text() -> None:
    assert parse_task(SAMPLE.replace("doc_to_choice: options", "doc_to_choice: [no, yes]"), "demo.yaml").file.doc_to_choice == ["no", "yes"]


BUILT_IN: dict[str, dict[str, Any]] = {
    "letters": {"question": "One and one? ", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"},
    "arc": {"question": "One and one?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "2"},
    "boolq": {"passage": "Snow is white.", "question": "is snow white", "answer": True},
    "gsm8k": {"question": "One and one?", "answer": "1 + 1 = 2\n#### 2"},
    "extraction": {"context": "Snow is white.", "question": "What is white?", "answer": ["Snow", "snow"]},
    "text": {"text": "Snow is white."},
}
CONTEXTS = {
    "letters": ("One and one?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", " B", (1,)),
    "arc": ("Question: One and one?\nAnswer:", " two", (1,)),
    "boolq": ("Snow is white.\nQuestion: is snow white?\nAnswer:", " yes", (1,)),
    "gsm8k": ("Question: One and one?\nAnswer:", "", ("1 + 1 = 2\n#### 2",)),
    "extraction": ("Snow is white.\n\nQuestion: What is white?\nAnswer:", "", ("Snow", "snow")),
    "text": ("", "Snow is white.", ()),
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_built_in_tasks_need_only_their_data(name: str, tmp_path: Path) -> None:
    assert built_in() == sorted(BUILT_IN)
    path = write_rows(tmp_path / "rows.jsonl", [BUILT_IN[name]])
    question = build_questions(read_task(name), str(path)).questions[0]
    context, continuation, targets = CONTEXTS[name]
    assert (context, continuation) in question.requests and question.targets == targets


@pytest.mark.parametrize(("answer", "number"), [("yes", 1), ("no", 0), (True, 1), (False, 0), (1, 1), (0, 0), ("true", 1)])
def test_the_built_in_yes_or_no_reads_any_of_their_spellings(answer: object, number: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**BUILT_IN["boolq"], "answer": answer}])
    assert build_questions(read_task("boolq"), str(path)).questions[0].targets == (number,)


def test_an_unknown_task_names_the_built_in_ones() -> None:
    with pytest.raises(ConfigError, match=r"task 'arcs' is no file and no built-in task; did you mean arc\? \(built-in tasks: arc, boolq, "):
        read_task("arcs")


@given(st.integers(0, len(SAMPLE)), st.integers(0, 14), st.text("ab {}[]:,-\n'\"|>!&*#%0.\\_", max_size=8) | st.text(max_size=4))
@settings(max_examples=250)
def test_any_damage_to_a_task_file_makes_questions_or_an_error(tmp_path_factory: pytest.TempPathFactory, at: int, length: int, put: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    try:
        build_questions(task_in(folder, SAMPLE[:at] + put + SAMPLE[at + length :], ROWS))
    except CurateError as error:
        assert str(error) and "Traceback" not in str(error)


PIECES = "{{ |}}|{% |%}|question|label|options|about|.x|[0]|[9]| + | * | ** |'a'|7|(|)| if | else | for x in |endfor|endif|set y = |, | in |\\n"
PIECES += "|{#|#}|\\u00b2|range(3)|x| is defined|~"


@given(st.lists(st.sampled_from([*PIECES.split("|"), "|", "|lower", "|list", "|int", "|join"]), max_size=12).map("".join))
@settings(max_examples=250)
def test_any_template_makes_questions_or_an_error_of_one_line(tmp_path_factory: pytest.TempPathFactory, template: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "templates"
    folder.mkdir(exist_ok=True)
    try:
        build_questions(task_in(folder, CHOICES.replace('"{{question}}"', f'"{template}"'), ROWS))
    except CurateError as error:
        assert "\n" not in str(error)
