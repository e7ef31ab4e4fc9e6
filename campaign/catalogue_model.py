"""Models that cannot or must not be used (M01 to M16): refused before anything is scored."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from campaign.catalogue import PREPARE, SCORE, TINY, Case, Shown

RECIPE = """name: bad
pool: {{synthetic: pool, rows: 20}}
target: {{rare: {{synthetic: target, rows: 4}}}}
model: {{path: {path}, max_length: 128}}
features:
  surprise: {scorer}
arms:
  hard: {{{slot}: surprise, selector: top_k}}
budgets: [4]
seeds: [0]
train: {{epochs: 1}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 4}}}}
"""
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
Damage = Callable[[Path], None]


def put(name: str, **fields: Any) -> Damage:
    """Change fields of a JSON file."""
    return lambda model: write(name, json.dumps({**(json.loads((model / name).read_bytes()) if (model / name).exists() else {}), **fields}))(model)


def write(name: str, content: str) -> Damage:
    def change(model: Path) -> None:
        (model / name).write_text(content)

    return change


def remove(name: str, new: str = "") -> Damage:
    def change(model: Path) -> None:
        (model / name).rename(model / (new or f"{name}.old"))

    return change


def cut(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def poison(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def add_token(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 1500, "content": "<|more|>"})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


# id, the damage, the exit code, and what is said
DAMAGED: list[tuple[str, Damage, int, str]] = [
    ("M01-no-config", remove("config.json"), 4, "has no config.json; give the folder of a transformers model, with config.json, tokenizer.json and"),
    ("M01-garbled", write("config.json", "{"), 4, "model/config.json cannot be read (Expecting property name"),
    ("M01-list", write("config.json", "[]"), 4, "model/config.json holds a list, not a mapping; restore it from the model's repository"),
    ("M01-no-type", write("config.json", "{}"), 4, "model/config.json describes no model that transformers can build: Unrecognized model"),
    ("M01-type", put("config.json", model_type="martian"), 4, "describes no model that transformers can build: "),
    ("M01-positions", put("config.json", max_position_embeddings="many"), 4, "max_position_embeddings is 'many', not a number of tokens"),
    ("M03", remove("model.safetensors", "pytorch_model.bin"), 4, "model has no model.safetensors; pickled weights (.bin, .pt) are refused: use a revision"),
    ("M04-cut", cut, 4, "model does not load: Error while deserializing header: incomplete metadata, file not fully covered; restore its files"),
    ("M04-empty", write("model.safetensors", ""), 4, "does not load: Error while deserializing header: header too small"),
    ("M04-missing", put("config.json", num_hidden_layers=5), 4, "lack 9 tensors of the shape that config.json asks for (first: model.layers.4.input_layernorm"),
    ("M04-shape", put("config.json", intermediate_size=64), 4, "tensors of the shape that config.json asks for (first: model.layers.0.mlp.down_proj.weight)"),
    ("M06", poison, 4, "model are damaged: model.norm.weight holds NaN or infinity; restore them from the model's repository"),
    ("M07", add_token, 4, "has 1025 entries but the model embeds 1024; restore both from one repository"),
    ("M07-none", remove("tokenizer.json"), 4, "the tokenizer in {} does not load: there is no tokenizer.json; restore its files from the model's repository"),
    ("M07-garbled", write("tokenizer.json", "{"), 4, "the tokenizer in {} does not load: Expecting property name"),
    ("M07-parts", write("tokenizer.json", "{}"), 4, "the tokenizer in {} does not load: 'added_tokens'"),
    ("M07-settings", write("tokenizer_config.json", "[1]"), 4, "model/tokenizer_config.json holds a list, not a mapping; restore it"),
    ("M09-model", put("config.json", auto_map={"AutoModel": "x.Y"}), 10, "asks for code of the model's repository (auto_map), which is never run: use a model"),
    ("M09-tokenizer", put("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}), 10, "model/tokenizer_config.json asks for code of the model's"),
    ("M10-syntax", write("chat_template.jinja", "fine\n{% for m in %}"), 4, "cannot be used (line 2: "),
    ("M10-raises", write("chat_template.jinja", "{{ raise_exception('no') }}"), 4, "the chat template of {} cannot be used ('no'); correct chat_template in"),
    ("M11", write("chat_template.jinja", "{{ ''.__class__.__mro__ }}"), 10, "the chat template of {} is refused: \"access to attribute '__class__' of 'str'"),
    ("M12-memory", write("chat_template.jinja", "{{ 'a' * 10 ** 10 }}"), 10, "is refused: four short turns are too much for its memory or depth (MemoryError)"),
    ("M14-adapter", put("adapter_config.json", r=4), 4, "model holds an adapter, not a whole model; merge it into its base model and give that folder"),
    ("M14-quantised", put("config.json", quantization_config={"bits": 4}), 4, "are quantised and give no gradients; use the model that they were made from"),
]


# id, the path, and what is said
NAMED = [
    ("M01-relative", "./nowhere", "model.path './nowhere' is not a folder ({}/nowhere does not exist); give a folder with config.json or a Hub id such as"),
    ("M01-deep", "a/b/c", "model.path 'a/b/c' is not a folder ({}/a/b/c does not exist); give a folder with config.json or a Hub id"),
    ("M01-hub", "org/name", "model.path 'org/name' is no folder ({}/org/name does not exist) and the Hub does not give it (revision main): "),
    ("M01-name", "org/na me", "and the Hub does not give it (revision main): Repo id must use alphanumeric chars"),
]

SHOWN = [
    Shown("M02", "tests/test_bad_model.py::test_m02_a_model_that_changes_is_another_model"),
    Shown("M05", "tests/test_bad_model.py::test_m02_a_model_that_changes_is_another_model"),
    Shown("M08", "tests/data/test_template.py::test_the_end_of_turn_carries_loss_also_where_it_pads"),
    Shown("M14-base", "tests/test_bad_features.py::test_a_trainers_run_of_another_model_is_refused"),
    Shown("M15", "tests/test_bad_model.py::test_m15_memory_that_does_not_suffice_says_what_to_lower"),
    Shown("M15-plan", "tests/pipelines/test_score.py::test_when_memory_runs_out_the_batch_is_halved_until_it_fits"),
    Shown("M16", "tests/test_bad_model.py::test_m16_a_model_is_scored_without_dropout"),
]


def recipe_of(path: object, scorer: str = "loss", more: str = "") -> str:
    """The recipe with this model and scorer."""
    return RECIPE.format(path=json.dumps(str(path)), scorer=scorer, slot="scores" if scorer == "loss" else "vectors") + more


def cases() -> list[Case | Shown]:
    """Damaged folders, names that lead nowhere, templates, adapters and what training makes of bad settings."""
    return [*_damaged(), *_named(), *_templates(), *_adapters(), *SHOWN]


def _case(name: str, damage: Damage, code: int, *said: str, arguments: tuple[str, ...] = SCORE, **more: Any) -> Case:
    """The tiny model with this damage."""

    def arrange(place: Path) -> None:
        damage(Path(shutil.copytree(TINY, place / "model")))

    return Case(name, recipe_of("model"), arguments, code, said, arrange, look=_nothing_scored if code else lambda place: [], **more)


def _damaged() -> list[Case]:
    return [_case(name, damage, code, said.replace("{}", "{}/model")) for name, damage, code, said in DAMAGED]


def _named() -> list[Case]:
    found = []
    for name, path, said in NAMED:
        hub = ("Check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE",) if "Hub does" in said else ()
        found.append(Case(name, recipe_of(path), SCORE, 4, (said, *hub)))
    said = "model.revision 'main' is that of a Hub model, but {}/model is a folder; remove revision, or rename the folder"
    revised = (*SCORE[:2], "model.revision=main", *SCORE[2:])
    longer = (*SCORE[:2], "model.max_length=4096", *SCORE[2:])
    found.append(_case("M01-revision", lambda model: None, 4, said, arguments=revised))
    found.append(_case("M07-positions", lambda model: None, 4, "model.max_length 4096 is more than the 512 positions of model; lower it", arguments=longer))
    return found


def _templates() -> list[Case]:
    answers_left_out = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    looped = ("the chat template of {}/model is refused: it takes more than 1 s or ", "use another model")
    return [
        _case("M10-answers", write("chat_template.jinja", answers_left_out), 3, "100.0% of 20 rows were set aside (no_supervised_tokens 20; for example"),
        _case("M12-time", write("chat_template.jinja", LOOP), 10, *looped, patches={"curate.pipelines.prepare.check_template": _impatient}),
        _case("M09-environment", foreign, 10, "asks for code of the model's repository", environment={"HF_TRUST_REMOTE_CODE": "1"}),
        _case("M08-none", without_pad, 0),
    ]


def _adapters() -> list[Case]:
    found = []
    for name, field, scorer in (("M13", "model.lora", "loss"), ("M13-warmup", "warmup.lora", "less")):
        command = (*PREPARE[:2], f"{field}={{targets: [qq_proj]}}", *PREPARE[2:])
        said = ("lora.targets ['qq_proj'] match no linear layer; this model has down_proj, gate_proj, k_proj, o_proj, q_proj,",)
        found.append(Case(name, recipe_of(TINY, scorer), command, 4, said, look=_nothing_stored))
    return found


def foreign(model: Path) -> None:
    """Code in the model's repository that would leave a file behind."""
    (model / "evil.py").write_text("open('ran', 'w')\n")
    put("config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, model_type="evil")(model)


def without_pad(model: Path) -> None:
    """No token to pad with."""
    config = json.loads((model / "tokenizer_config.json").read_bytes())
    (model / "tokenizer_config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "pad_token"}))


def _impatient() -> Callable[..., None]:
    from curate.data.preflight import check_template

    return partial(check_template, seconds=1)


def _nothing_stored(place: Path) -> list[str]:
    return ["it made a store"] if (place / "store").exists() else []


def _nothing_scored(place: Path) -> list[str]:
    wrong = [f"it left {path.name}" for path in (place / "store").glob("features-*")]
    return wrong + (["code of the model's repository was run"] if (place / "ran").exists() else [])
