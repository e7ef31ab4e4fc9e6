"""Wrong recipes and wrong commands: an exit code, one sentence that says where, what was allowed and what to do, and no traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from curate.store import locked

RECIPE = """name: bad
pool: {synthetic: pool, rows: 40}
target: {rare: {synthetic: target, rows: 8}}
model: {path: MODEL, max_length: 128}
features:
  surprise: loss
  gradient: {name: less, width: 64}
arms:
  hard: {scores: surprise, selector: top_k}
budgets: [10]
evaluate: {task: likelihood, data: {synthetic: test, rows: 10}}
"""
ARM = "{scores: surprise, selector: top_k}"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def curate(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `curate ...` in an empty folder; its exit code and what it said on standard error, for it may say nothing else."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        code = command_line(*arguments)
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        return code, said.err

    return run


def written(text: str | bytes, tiny: Path) -> Path:
    path = Path("bad.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.replace("MODEL", str(tiny)).encode())
    return path


# id, what is replaced in the recipe, by what, and what is said
FIELDS = [
    ("C01", "scores: surprise, selector", "scores: surprise, selctor", "bad.yaml:9: arms.hard.selctor is not a field; did you mean selector? (fields: "),
    ("C01-top", "budgets:", "budget:", "bad.yaml:10: budget is not a field; did you mean budgets? (fields: name, pool, "),
    ("C01-method", "loss", "{name: loss, batch: 3}", "bad.yaml:6: features.surprise.batch is not a field; fields: name"),
    ("C03", "name: bad", "name: true", "bad.yaml:1: name is true; it must be text; put it in quotes"),
    ("C03-word", "synthetic: pool", "synthetic: no", "bad.yaml:2: pool.synthetic is 'no'; it must be 'pool', 'target' or 'test'"),
    ("C04", "rows: 40", "rows: 040", "bad.yaml:2: 040 is ambiguous, YAML versions read it differently; write 40, '040' or 0o40"),
    ("C05", "budgets: [10]", "budgets: [10]\nbudgets: [9]", "bad.yaml:11: budgets is given twice, first on line 10; keep one"),
    ("C06-real", "rows: 40", "rows: 40.0", "bad.yaml:2: pool.rows is 40.0; it must be a whole number"),
    ("C06-text", "rows: 40", 'rows: "40"', "bad.yaml:2: pool.rows is '40'; it must be a whole number"),
    ("C06-boolean", "rows: 40", "rows: true", "bad.yaml:2: pool.rows is true; it must be a whole number"),
    ("control-arm", "budgets:", "controls: {length_matched_random: [hrad]}\nbudgets:", "length_matched_random: there is no arm 'hrad'; did you mean hard?"),
    ("control", "budgets:", "controls: [matched_random]\nbudgets:", "controls is 'matched_random'; it must be 'length_matched_random' or "),
    ("evaluate-target", "{task: likelihood,", "{task: likelihood, target: rare,", "add per_target: true, or remove target"),
    ("evaluate-no-target", "{task: likelihood,", "{task: likelihood, target: raer,", "there is no target 'raer'; did you mean rare?"),
    ("preset", "budgets:", "train: {preset: les}\nbudgets:", "bad.yaml:10: train: there is no preset 'les'; presets: less, light"),
    ("preset-lora", "max_length: 128", "lora: heavy", "bad.yaml:4: model.lora: there is no preset 'heavy'; presets: less, light"),
    ("pruning", "budgets:", "train: {pruning: {name: infobtach}}\nbudgets:", "bad.yaml:10: train.pruning"),
    ("validation", "budgets:", "train: {validate_every: 3}\nbudgets:", "train.validate_every does nothing without a validation; add validation: 10%"),
    ("C07", "max_length: 128", "lora: {alpha: .nan}", "bad.yaml:4: .nan is not a finite number; write one, or null"),
    ("C08-zero", "[10]", "0", "bad.yaml:10: budgets: a budget of 0 keeps nothing; give at least one row or token"),
    ("C08-none", "[10]", "0%", "bad.yaml:10: budgets: a budget of 0% keeps nothing"),
    ("C08-negative", "[10]", "-5", "bad.yaml:10: budgets: budget -5 is not understood; write a number of rows (1000), a share (5%), or tokens ("),
    ("C08-share", "[10]", "150%", "bad.yaml:10: budgets: budget '150%' is more than the whole pool; the largest share is 100%"),
    ("C08-fraction", "[10]", "{amount: 5, unit: fraction}", "budgets: a budget of 500% is more than the whole pool; the largest fraction is 1"),
    ("C08-word", "[10]", "ten", "bad.yaml:10: budgets: budget 'ten' is not understood; write a number of rows (1000)"),
    ("C08-twice", "[10]", "[10, '10']", "bad.yaml:10: budgets: a budget is given twice; keep one"),
    ("C08-empty", "[10]", "[]", "bad.yaml:10: budgets is a list; it must hold 1 or more entries"),
    ("C13-scorer", "loss", "los", "bad.yaml:6: features.surprise: there is no scorer 'los'; did you mean loss? (scorers: "),
    ("C13-path", "top_k", "os.system", "bad.yaml:9: arms.hard.selector: there is no selector 'os.system'; selectors: bandit, "),
    ("C13-task", "likelihood", "gsm9k", "bad.yaml:11: evaluate.task: there is no task 'gsm9k'; tasks: code, exact_match, "),
    ("C14-reference", "scores: surprise", "scores: suprise", "bad.yaml:9: arms.hard.scores: there is no feature 'suprise'; did you mean surprise?"),
    ("C14-slot", "scores: surprise", "vectors: surprise", "scorer loss of 'surprise' yields scores, not vectors; write scores: surprise"),
    ("C14-needs", "top_k", "round_robin", "bad.yaml:9: arms.hard: selector round_robin needs vectors, and the arm gives none; add vectors: gradient"),
    ("C14-neither", ARM, "{selector: top_k}", "top_k needs scores or vectors, and the arm gives neither; add scores: surprise, or add vectors: gradient"),
    ("C14-nothing", f"arms:\n  hard: {ARM}", "baselines: []", "there are neither arms nor baselines, so there is nothing to run; add an arm"),
    ("C14-name", "hard:", "random:", "bad.yaml:8: arms: 'random' is no usable name"),
    ("C14-labels", "evaluate: {", "evaluate:\n- {task: likelihood, data: {synthetic: test, rows: 9}}\n- {", "bad.yaml:13: evaluate.1: another entry is called"),
    ("C14-seeds", "budgets: [10]", "seeds: [1, 1]\nbudgets: [10]", "bad.yaml:10: seeds: seeds must be distinct and not negative, such as [0, 1, 2]"),
    ("C14-lora", "max_length: 128", "lora: {targets: []}", "model.lora.targets is a list; it must be 'all' or 'attention' or hold 1 or more entries"),
    ("C14-origins", "synthetic: pool, rows: 40", "path: a, hub: b", "bad.yaml:2: pool: a source needs exactly one of path, hub or synthetic; this one has"),
    ("S07", "name: bad", "name: ../bad", "bad.yaml:1: name: '../bad' is no run name: use letters, digits, "),
    ("bare-pool", "{synthetic: pool, rows: 40}", "rows.jsonl", "pool: 'rows.jsonl' is a bare word; write {path: rows.jsonl} for files, or {hub: "),
    ("bare-model", "{path: MODEL, max_length: 128}", "gpt2", "bad.yaml:4: model: a model is a mapping; write model: {path: gpt2}"),
    ("bare-target", "{rare: {synthetic: target, rows: 8}}", "{synthetic: target, rows: 8}", "every target has a name; write target: {NAME: {path: ...}}"),
    ("missing", "target: {rare: {synthetic: target, rows: 8}}\n", "", "bad.yaml:1: target is missing; add it"),
]


@pytest.mark.parametrize(("old", "new", "said"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_a_wrong_field_is_named_with_its_line_and_what_is_allowed(curate: Command, tiny: Path, old: str, new: str, said: str) -> None:
    assert RECIPE.count(old) >= 1
    code, message = curate("validate", written(RECIPE.replace(old, new, 1), tiny))
    assert code == 2 and message.startswith("error: ") and said in message
    assert message.count("\n") == 1 + ("is missing; add it" in message and "is not a field" in message)  # two problems, a line each


FILES = [
    ("C09-empty", b"# nothing\n", 2, "bad.yaml:1: the file is empty; write `key: value` fields, or start from `curate init`"),
    ("C09-list", b"- a\n", 2, "bad.yaml:1: the top level is a list; it must be a mapping of `key: value` fields"),
    ("C09-binary", b"\xff\xfe\x00\x01", 2, "bad.yaml:1: the file is UTF-16 or binary; save the recipe as UTF-8 text"),
    ("C10-alias", b"a: &x [1]\nb: *x\n", 2, "bad.yaml:1: anchors and aliases (&x) are not read; write the value out"),
    ("C10-depth", b"[" * 20_000, 2, "bad.yaml:1: values are nested more than 64 deep; a recipe needs fewer than ten"),
    ("C11", b"name: !!python/object/apply:os.system ['touch run']\n", 10, "asks to run Python code; a recipe holds plain values, remove the tag"),
]


@pytest.mark.parametrize(("raw", "code", "said"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_is_no_recipe_is_one_line(curate: Command, tiny: Path, raw: bytes, code: int, said: str) -> None:
    found, message = curate("validate", written(raw, tiny))
    assert (found, message.count("\n")) == (code, 1) and said in message
    assert [path.name for path in Path().iterdir()] == ["bad.yaml"]  # nothing was run


def test_c01_all_problems_of_a_file_are_told_at_once_in_its_order(curate: Command, tiny: Path) -> None:
    text = RECIPE.replace("rows: 40", "rows: x").replace("max_length: 128", "max_length: 2").replace("[10]", "0")
    code, message = curate("validate", written(text, tiny))
    lines = [int(line.split("bad.yaml:")[1].split(":")[0]) for line in message.splitlines()]
    assert code == 2 and lines == [2, 4, 10]


def test_c02_numbers_in_scientific_notation_are_numbers(curate: Command, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from curate.recipe import read_recipe

    path = written(RECIPE + "train: {learning_rate: 1e-5}\n", tiny)
    assert read_recipe(path).train.learning_rate == 1e-5


OVERRIDES = [
    ("C18-key", "train.epoch=2", "command line: train.epoch is not a field; did you mean epochs? (fields: "),
    ("C18-section", "trian.epochs=2", "command line: trian is not a field; did you mean train? (fields: "),
    ("C18-type", "train.epochs=two", "command line: train.epochs is 'two'; it must be a whole number"),
    ("C18-form", "epochs", "override 'epochs' is not understood; write dotted.key=value, such as train.epochs=2"),
    ("C18-item", "budgets.3=2", "command line: budgets has 1 items, and '3' is not the number of one; count from 0"),
    ("C18-inside", "arms.hard.selector.x=2", "command line: arms.hard.selector is 'top_k', which has no field 'x'; give it whole"),
    ("C18-reference", "arms.hard.scores=gradient", "command line: arms.hard.scores: scorer less of 'gradient' yields vectors, not scores; write vectors: "),
]


@pytest.mark.parametrize(("assignment", "said"), [case[1:] for case in OVERRIDES], ids=[case[0] for case in OVERRIDES])
def test_an_override_is_checked_like_the_file(curate: Command, tiny: Path, assignment: str, said: str) -> None:
    code, message = curate("validate", written(RECIPE, tiny), assignment)
    assert (code, message.count("\n")) == (2, 1) and said in message


COMMANDS = [
    ("no-file", ["validate", "missing.yaml"], 2, "cannot read the recipe missing.yaml: No such file or directory; `curate init` writes one to start from"),
    ("no-name", ["run", "quickstrat"], 2, "there is no recipe file 'quickstrat', and none of that name ships with curate; shipped: quickstart"),
    ("folder", ["validate", "./"], 2, "cannot read the recipe .: Is a directory; `curate init` writes one to start from"),
    ("report", ["report", "nothing"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one, --runs names the folder of runs"),
    ("export", ["export", "nothing", "hard", "out"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one"),
    ("verify", ["verify", "nothing"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), [case[1:] for case in COMMANDS], ids=[case[0] for case in COMMANDS])
def test_what_does_not_exist_is_named_with_the_way_to_make_it(curate: Command, arguments: list[str], code: int, said: str) -> None:
    found, message = curate(*arguments)
    assert (found, message.count("\n")) == (code, 1) and f"error: {said}" in message
    assert list(Path().iterdir()) == []


def test_an_unknown_option_or_choice_is_a_usage_error(curate: Command, tiny: Path) -> None:
    for option, said in ((["--nope"], "No such option"), (["--until", "never"], "'prepare', 'score', 'select', 'train'"), (["--workers", "0"], "--workers")):
        code, message = curate("run", written(RECIPE, tiny), *option)
        assert code == 2 and said in message


@pytest.mark.parametrize("name", ["results.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_of_a_run_is_named(curate: Command, name: str, content: str) -> None:
    folder = Path("runs/old")
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    code, message = curate("report" if name == "results.json" else "verify", "old")
    assert (code, message.count("\n")) == (8, 1) and f"runs/old/{name}" in message and "run" in message.partition(";")[2]


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda"])
def test_c14_a_device_that_is_not_there_is_refused(curate: Command, tiny: Path, device: str) -> None:
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    code, message = curate("run", written(RECIPE, tiny), "--device", device)
    assert (code, message.count("\n")) == (2, 1) and f"--device {device} is not to be had here" in message and "use cpu or auto" in message
    assert not Path("runs").exists()


@pytest.mark.parametrize("option", ["--store", "--runs"])
@pytest.mark.parametrize("place", ["bad.yaml", "bad.yaml/below"])
def test_f03_a_folder_that_cannot_be_written_is_named(curate: Command, tiny: Path, option: str, place: str) -> None:
    code, message = curate("run", written(RECIPE, tiny), option, place, "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (7, 1)
    assert f"{place}/" in message and "Not a directory; name folders that can be written with --runs and --store" in message


def test_f03_a_log_that_cannot_be_written_is_named(curate: Command, tiny: Path) -> None:
    Path("runs/bad/log.jsonl").mkdir(parents=True)
    code, message = curate("run", written(RECIPE, tiny), "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (7, 1) and "cannot write runs/bad/log.jsonl: Is a directory" in message


def test_r14_a_run_that_is_in_use_is_left_alone(curate: Command, tiny: Path) -> None:
    with locked(Path("runs/bad/.lock"), wait=False):
        code, message = curate("run", written(RECIPE, tiny), "--quiet")
    assert code == 6 and message == "error: runs/bad is in use by another curate process; wait for it, or give this run another name\n"
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("41", "pool: budget 41 is more than the 40 usable rows; lower it, or ask for 100%"),
        ("1M tokens", "usable rows; lower it, or ask for 100%"),
        ("1%", "pool: budget 1% does not reach for a single row; the cheapest costs 1: raise the budget"),
        ("2 tokens", "pool: budget 2 tokens does not reach for a single row; the cheapest costs "),
    ],
    ids=["C08-rows", "C08-tokens", "C08-small-share", "C08-few-tokens"],
)
def test_c08_a_budget_that_does_not_suit_the_pool_is_found_before_anything_is_scored(curate: Command, tiny: Path, budget: str, said: str) -> None:
    code, message = curate("run", written(RECIPE.replace("[10]", budget), tiny), "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (3, 1) and said in message


def test_c16_a_run_does_not_read_what_runs_write(curate: Command, tiny: Path) -> None:
    code, message = curate("run", written(RECIPE.replace("synthetic: pool, rows: 40", "path: ."), tiny), "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (2, 1) and "log.jsonl is written by curate itself; move the data to a folder of its own" in message
