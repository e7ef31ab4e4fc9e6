"""Wrong recipes and wrong commands (C01 to C18, S07, F03): a line of the file, what was allowed, and no library loaded before that is said."""

import shutil
from pathlib import Path

from campaign.catalogue import PREPARE, RECIPE_FILE, TINY, VALIDATE, Case, Skipped

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

# id, what is replaced in the recipe, by what, and what is said
FIELDS = [
    ("C01", "scores: surprise, selector", "scores: surprise, selctor", "bad.yaml:9: arms.hard.selctor is not a field; did you mean selector? (fields: "),
    ("C01-top", "budgets:", "budget:", "bad.yaml:10: budget is not a field; did you mean budgets? (fields: name, pool, "),
    ("C01-method", "loss", "{name: loss, batch: 3}", "bad.yaml:6: features.surprise.batch is not a field; fields: name"),
    ("C03", "name: bad", "name: true", "bad.yaml:1: name is true; it must be text; put it in quotes"),
    ("C03-word", "synthetic: pool", "synthetic: no", "bad.yaml:2: pool.synthetic is 'no'; it must be 'pool', 'target' or 'test'"),
    ("C04", "rows: 40", "rows: 040", "bad.yaml:2: 040 is ambiguous, YAML versions read it differently; write 40, '040' or 0o40"),
    ("C04-clock", "rows: 40", "rows: 12:30", "bad.yaml:2: 12:30 is ambiguous, YAML versions read it differently; write '12:30' for text"),
    ("C04-underscore", "rows: 40", "rows: 1_000", "bad.yaml:2: 1_000 is ambiguous, YAML versions read it differently; write 1000"),
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
    ("C07-infinite", "max_length: 128", "lora: {alpha: -.inf}", "bad.yaml:4: -.inf is not a finite number; write one, or null"),
    ("C07-overflow", "max_length: 128", "lora: {alpha: 1e400}", "bad.yaml:4: 1e400 is not a finite number; write one, or null"),
    ("C07-minus-zero", "max_length: 128", "lora: {alpha: -0.0}", "bad.yaml:4: model.lora.alpha is -0.0; it must be greater than 0"),
    ("C07-huge", "rows: 40", "rows: 99999999999999999999", "bad.yaml:2: 99999999999999999999 does not fit 64 bits; write a smaller number"),
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

# id, the file's bytes, the exit code, and what is said
FILES = [
    ("C09-empty", b"# nothing\n", 2, "bad.yaml:1: the file is empty; write `key: value` fields, or start from `curate init`"),
    ("C09-list", b"- a\n", 2, "bad.yaml:1: the top level is a list; it must be a mapping of `key: value` fields"),
    ("C09-binary", b"\xff\xfe\x00\x01", 2, "bad.yaml:1: the file is UTF-16 or binary; save the recipe as UTF-8 text"),
    ("C09-nothing", b"", 2, "bad.yaml:1: the file is empty; write `key: value` fields, or start from `curate init`"),
    ("C09-tab", b"name: a\n\tpool: b\n", 2, "bad.yaml:2: a tab cannot indent or start a value; use spaces"),
    ("C09-utf16", "name: a\n".encode("utf-16"), 2, "bad.yaml:1: the file is UTF-16 or binary; save the recipe as UTF-8 text"),
    ("C09-latin1", b"name: a\n# \xe9\n", 2, "bad.yaml:2: byte 0xe9 is not UTF-8; save the recipe as UTF-8 text"),
    ("C09-control", b"name: a\x07\n", 2, "bad.yaml:1: control character '\\x07'; the file is binary or damaged"),
    ("C10-bomb", b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 123)), 2, "bad.yaml:1: anchors and aliases (&a)"),
    ("C10-size", b"name: " + b"a" * 2**20, 2, "bad.yaml:1: the file has 1,048,582 bytes; a recipe has at most 1,048,576, keep rows in a data file"),
    ("C10-values", b"name: [" + b"1," * 30_000 + b"]", 2, "bad.yaml:1: more than 20,000 values; a recipe is small, keep rows in a data file"),
    ("C10-alias", b"a: &x [1]\nb: *x\n", 2, "bad.yaml:1: anchors and aliases (&x) are not read; write the value out"),
    ("C10-depth", b"[" * 20_000, 2, "bad.yaml:1: values are nested more than 64 deep; a recipe needs fewer than ten"),
    ("C11", b"name: !!python/object/apply:os.system ['touch run']\n", 10, "asks to run Python code; a recipe holds plain values, remove the tag"),
]

# id, the override, and what is said
OVERRIDES = [
    ("C18-key", "train.epoch=2", "command line: train.epoch is not a field; did you mean epochs? (fields: "),
    ("C18-section", "trian.epochs=2", "command line: trian is not a field; did you mean train? (fields: "),
    ("C18-type", "train.epochs=two", "command line: train.epochs is 'two'; it must be a whole number"),
    ("C18-form", "epochs", "override 'epochs' is not understood; write dotted.key=value, such as train.epochs=2"),
    ("C18-item", "budgets.3=2", "command line: budgets has 1 items, and '3' is not the number of one; count from 0"),
    ("C18-inside", "arms.hard.selector.x=2", "command line: arms.hard.selector is 'top_k', which has no field 'x'; give it whole"),
    ("C18-reference", "arms.hard.scores=gradient", "command line: arms.hard.scores: scorer less of 'gradient' yields vectors, not scores; write vectors: "),
]

# id, the command, the exit code, and what is said
COMMANDS = [
    ("no-file", ["validate", "missing.yaml"], 2, "cannot read the recipe missing.yaml: No such file or directory; `curate init` writes one to start from"),
    ("no-name", ["run", "quickstrat"], 2, "there is no recipe file 'quickstrat', and none of that name ships with curate; shipped: quickstart"),
    ("folder", ["validate", "./"], 2, "cannot read the recipe .: Is a directory; `curate init` writes one to start from"),
    ("report", ["report", "nothing"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one, --runs names the folder of runs"),
    ("export", ["export", "nothing", "hard", "out"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one"),
    ("verify", ["verify", "nothing"], 3, "there is no finished run in runs/nothing; `curate run RECIPE` makes one"),
]

# id, the device that is asked for
DEVICES = [("C14-device", "tpu"), ("C14-device-number", "cuda:x")]

# id, the budget, and what is said of it once the pool has been read
BUDGETS = [
    ("C08-rows", "41", "pool: budget 41 is more than the 40 usable rows; lower it, or ask for 100%"),
    ("C08-tokens", "1M tokens", "usable rows; lower it, or ask for 100%"),
    ("C08-small-share", "1%", "pool: budget 1% does not reach for a single row; the cheapest costs 1: raise the budget"),
    ("C08-few-tokens", "2 tokens", "pool: budget 2 tokens does not reach for a single row; the cheapest costs "),
]


def field_of(name: str) -> str:
    """The recipe with one field replaced: see FIELDS."""
    old, new = next((case[1], case[2]) for case in FIELDS if case[0] == name)
    if old not in RECIPE:
        raise ValueError(f"{name} replaces {old!r}, which the recipe does not hold")
    return RECIPE.replace(old, new, 1)


def with_model(recipe: str) -> str:
    """The recipe with the path of the tiny model."""
    return recipe.replace("MODEL", str(TINY))


def cases() -> list[Case | Skipped]:
    """Those that are answered before a library is loaded, then those that need the pool."""
    return [*_light(), *_accepted(), *_read()]


def _light() -> list[Case]:
    def case(name: str, recipe: str | bytes, code: int, said: str, arguments: tuple[str, ...] = VALIDATE, lines: int = 1) -> Case:
        text = recipe if isinstance(recipe, bytes) else with_model(recipe)
        return Case(name, text, arguments, code, (said,), look=_only_the_recipe, lines=lines, light=True)

    two = {"C01", "C01-top"}  # the field that is not one, and the one that is missing for it
    found = [case(name, field_of(name), 2, said, lines=1 + (name in two)) for name, _, _, said in FIELDS]
    found += [case(name, raw, code, said) for name, raw, code, said in FILES]
    found += [case(name, RECIPE, 2, said, (*VALIDATE, assignment)) for name, assignment, said in OVERRIDES]
    found += [case(name, RECIPE, code, f"error: {said}", tuple(arguments)) for name, arguments, code, said in COMMANDS if arguments[0] in ("validate", "run")]
    ran = ("C07", "C13-scorer", "C14-reference")  # `run` says it as `validate` does
    found += [case(f"{name}-run", field_of(name), 2, said, ("run", RECIPE_FILE)) for name, _, _, said in FIELDS if name in ran]
    several = RECIPE.replace("rows: 40", "rows: x").replace("max_length: 128", "max_length: 2").replace("[10]", "0")
    return [*found, case("C01-several", several, 2, "bad.yaml:10: budgets: a budget of 0 keeps nothing", lines=3)]


def _accepted() -> list[Case]:
    """What looks wrong and is not."""
    from curate.recipe import read_recipe

    def rate(place: Path) -> list[str]:
        found = read_recipe(place / RECIPE_FILE).train.learning_rate
        return [] if found == 1e-5 else [f"1e-5 is read as {found!r}"]

    def fine(name: str, raw: bytes) -> Case:
        return Case(name, raw, VALIDATE, 0, light=True)

    plain = with_model(RECIPE).encode()
    return [
        Case("C02", with_model(RECIPE) + "train: {learning_rate: 1e-5}\n", VALIDATE, 0, look=rate, light=True),
        fine("C09-bom", b"\xef\xbb\xbf" + plain),
        fine("C09-crlf", plain.replace(b"\n", b"\r\n")),
    ]


def _read() -> list[Case | Skipped]:
    recipe = with_model(RECIPE)
    found: list[Case | Skipped] = [Case(name, recipe.replace("[10]", budget), PREPARE, 3, (said,)) for name, budget, said in BUDGETS]
    found += [Case(name, recipe, tuple(command), code, (f"error: {said}",)) for name, command, code, said in COMMANDS if command[0] not in ("validate", "run")]
    found += [
        Case(name, recipe, (*PREPARE, "--device", device), 2, (f"--device {device} is not to be had here", "use cpu or auto"), look=_only_the_recipe)
        for name, device in DEVICES
    ]
    for name in ("${HF_TOKEN}", "$HF_TOKEN"):
        said = f"{name}: no data file matches {{}}/{name}"
        text = recipe.replace("{synthetic: pool, rows: 40}", f"{{path: '{name}'}}")
        found.append(Case(f"C12-{len(name)}", text, PREPARE, 3, (said,), look=_no_token, environment={"HF_TOKEN": TOKEN}))
    inside = recipe.replace("synthetic: pool, rows: 40", "path: .")
    said = "log.jsonl is written by curate itself; move the data to a folder of its own"
    found.append(Case("C16-inside", inside, PREPARE, 2, (said,)))
    same = recipe.replace("synthetic: pool, rows: 40", "path: store")
    found.append(Case("C16-same", same, PREPARE, 2, ("store/rows.jsonl is written by curate itself; move the data",), arrange=_rows_in_the_store))
    wider = (*PREPARE[:2], "model.max_length=96", *PREPARE[2:])
    found.append(Case("C17", recipe, wider, 0, look=_both_kept, again=(PREPARE,)))
    found.append(Skipped("C14-cache", "no recipe can ask for a cache: models without one are served without, tests/inference/test_unshared.py"))
    found.append(Skipped("C16-foreign", "foreign files in a run's folder are kept: a run writes its own names only, and links there are refused (S06)"))
    return found


TOKEN = "hf_" + "Canary0Of1The2Token3That4Nobody5May6See"


def _only_the_recipe(place: Path) -> list[str]:
    there = sorted(path.name for path in place.iterdir())
    return [] if there == [RECIPE_FILE] else [f"it left {', '.join(there)}"]


def _no_token(place: Path) -> list[str]:
    return [f"{path.name} holds the token" for path in place.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def _rows_in_the_store(place: Path) -> None:
    (place / "store").mkdir()
    shutil.copy(place / RECIPE_FILE, place / "store" / "rows.jsonl")


def _both_kept(place: Path) -> list[str]:
    """An edited recipe makes artifacts of its own and leaves those of the first one whole."""
    from curate.store import read_json, verify

    manifests = sorted((place / "store").glob("examples-*/manifest.json"))
    lengths = sorted({int(read_json(path)["fields"]["max_length"]) for path in manifests})
    wrong = [line for path in manifests for line in verify(path.parent)]
    return wrong if lengths == [96, 128] else [*wrong, f"the store holds examples of at most {lengths} tokens, not of 96 and 128"]
