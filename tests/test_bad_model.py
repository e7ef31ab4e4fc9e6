"""Models that cannot or must not be used, through the command line: refused before anything is scored, in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
Run = Callable[..., tuple[int, str]]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def run(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Score with the model under this path; the exit code and what was said on standard error, for nothing else may be said."""
    monkeypatch.chdir(tmp_path)

    def score(path: object, *overrides: str, until: str = "score", command: str = "run", scorer: str = "loss") -> tuple[int, str]:
        slot = "scores" if scorer == "loss" else "vectors"
        Path("bad.yaml").write_text(RECIPE.format(path=json.dumps(str(path)), scorer=scorer, slot=slot))
        options = ["--until", until, "--quiet", "--workers", "1"] if command == "run" else []
        code = command_line(command, "bad.yaml", *overrides, *options)
        said = capsys.readouterr()
        assert (said.out == "" or until == "train") and "Traceback" not in said.err  # a run goes on without the models that diverge, and reports
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        return code, said.err

    return score


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def put(name: str, **fields: Any) -> Callable[[Path], None]:
    """Change fields of a JSON file."""
    return lambda model: write(name, json.dumps({**(json.loads((model / name).read_bytes()) if (model / name).exists() else {}), **fields}))(model)


def write(name: str, content: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).write_text(content)

    return change


def remove(name: str, new: str = "") -> Callable[[Path], None]:
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
DAMAGED: list[tuple[str, Callable[[Path], None], int, str]] = [
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


@pytest.mark.parametrize(("damage", "code", "said"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED])
def test_a_damaged_or_unsafe_model_is_refused(run: Run, model: Path, damage: Callable[[Path], None], code: int, said: str) -> None:
    damage(model)
    found, message = run(model)
    assert found == code and said.replace("{}", str(model)) in message
    assert ";" in message or ":" in message.removeprefix("error: ")  # what to do follows what is wrong
    assert not list(Path("store").glob("features-*"))


NAMED = [
    ("M01-relative", "./nowhere", "model.path './nowhere' is not a folder ({}/nowhere does not exist); give a folder with config.json or a Hub id such as"),
    ("M01-deep", "a/b/c", "model.path 'a/b/c' is not a folder ({}/a/b/c does not exist); give a folder with config.json or a Hub id"),
    ("M01-hub", "org/name", "model.path 'org/name' is no folder ({}/org/name does not exist) and the Hub does not give it (revision main): "),
    ("M01-name", "org/na me", "and the Hub does not give it (revision main): Repo id must use alphanumeric chars"),
]


@pytest.mark.parametrize(("path", "said"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_a_model_that_is_nowhere_is_one_line(run: Run, tmp_path: Path, path: str, said: str) -> None:
    code, message = run(path)
    assert code == 4 and said.replace("{}", str(tmp_path)) in message
    if "Hub does not" in said:
        assert message.endswith("Check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE\n")


def test_m01_a_revision_is_never_ignored(run: Run, tiny: Path) -> None:
    code, message = run(tiny, "model.revision=main")
    assert code == 4 and f"model.revision 'main' is that of a Hub model, but {tiny} is a folder; remove revision, or rename the folder" in message


def test_m02_a_model_that_changes_is_another_model(tiny: Path, model: Path) -> None:
    from curate.model import resolve
    from curate.settings import ModelSpec

    poison(model)
    same, changed = (resolve(ModelSpec(path=str(path)), Path()) for path in (tiny, model))
    assert same.identity() != changed.identity()


def test_m09_the_environment_cannot_allow_foreign_code(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TRUST_REMOTE_CODE", "1")
    (model / "evil.py").write_text("open('ran', 'w')\n")
    put("config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, model_type="evil")(model)
    assert run(model)[0] == 10 and not Path("ran").exists()


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_m12_a_template_that_never_ends_is_stopped(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    from curate.data.preflight import check_template

    monkeypatch.setitem(check_template.__kwdefaults__ or {}, "seconds", 1)
    write("chat_template.jinja", LOOP)(model)
    code, message = run(model, command=command)
    assert code == 10 and f"the chat template of {model} is refused: it takes more than 1 s or " in message and "use another model" in message


def test_m10_a_template_that_leaves_the_answers_out_leaves_no_row(run: Run, model: Path) -> None:
    write("chat_template.jinja", "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")(model)
    code, message = run(model)
    assert code == 3 and "100.0% of 20 rows were set aside (no_supervised_tokens 20; for example synthetic-pool:" in message


@pytest.mark.parametrize(("field", "scorer"), [("model.lora", "loss"), ("warmup.lora", "less")])
def test_m13_adapters_that_match_no_layer_list_those_there_are(run: Run, tiny: Path, field: str, scorer: str) -> None:
    code, message = run(tiny, f"{field}={{targets: [qq_proj]}}", until="prepare", scorer=scorer)
    assert code == 4 and "lora.targets ['qq_proj'] match no linear layer; this model has down_proj, gate_proj, k_proj, o_proj, q_proj," in message
    assert not Path("store").exists()


def test_more_tokens_than_the_model_has_positions_are_refused(run: Run, tiny: Path) -> None:
    code, message = run(tiny, "model.max_length=4096")
    assert code == 4 and f"model.max_length 4096 is more than the 512 positions of {tiny}; lower it" in message


def test_m15_memory_that_does_not_suffice_says_what_to_lower(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from curate.scorers.loss import Loss

    def exhaust(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Loss, "reader", exhaust)
    code, message = run(tiny)
    assert code == 4 and "tokens does not fit in the memory of the device or machine, alone as it is; lower model.max_length" in message
    assert len(message.split("row ")[1].split(" of ")[0]) >= 32  # its id


def test_m16_a_model_is_scored_without_dropout(tiny: Path, model: Path) -> None:
    from curate.model import fresh, resolve
    from curate.settings import ModelSpec

    put("config.json", attention_dropout=0.5)(model)
    loaded = fresh(resolve(ModelSpec.model_validate({"path": str(model), "lora": {"dropout": 0.5}}), Path()))
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize(("rate", "scorer"), [("train", "loss"), ("warmup", "less")])
def test_n02_training_that_diverges_is_no_result(run: Run, tiny: Path, rate: str, scorer: str) -> None:
    code, message = run(tiny, f"{rate}.learning_rate=1.0e+30", "warmup.fraction=1.0", "train.epochs=4", until="train", scorer=scorer)
    assert code == 5 and "training diverged at step " in message and "lower the learning rate (now 1e+30)" in message
