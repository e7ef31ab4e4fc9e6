"""Features that cannot be computed, through the command line: one line that says what and where, the exit code, and nothing lost of what was computed."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPE = """name: bad
pool: {synthetic: pool, rows: 40, group: kind}
target: {rare: {synthetic: target, rows: 6, group: kind}}
model: {path: MODEL, max_length: 128}
warmup: {fraction: 50%, epochs: 2, learning_rate: 1.0e-3, lora: {r: 2, alpha: 4, targets: attention}}
features: {f: FEATURE}
arms: {a: ARM}
budgets: [4]
seeds: [0]
baselines: [random]
evaluate: {task: likelihood, data: {synthetic: test, rows: 4}}
"""
VECTORS = "{vectors: f, selector: facility_location}"
COMPARED = "{vectors: f, selector: round_robin}"
SCORES = "{scores: f, selector: top_k}"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path) -> Run:
    """Run a recipe with one feature and one arm in an empty folder; the exit code, and what was said on standard error: one line, or none."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def go(feature: str, arm: str, *overrides: str, command: str = "run") -> tuple[int, str]:
        Path("bad.yaml").write_text(RECIPE.replace("MODEL", str(tiny)).replace("FEATURE", feature).replace("ARM", arm))
        options = ["--until", "select", "--quiet", "--workers", "1"] if command == "run" else []
        code = command_line(command, "bad.yaml", *overrides, *options)
        said = capsys.readouterr().err
        assert said == "" if code == 0 else said.startswith("error: ") and said.count("\n") == 1, said
        return code, said

    return go


def built(stage: str) -> list[Path]:
    return sorted(Path("store").glob(f"{stage}-*"))


# what the feature is, the arm that reads it, and what is said
FIELDS = [
    ("{name: less, widht: 3}", VECTORS, "bad.yaml:6: features.f.widht is not a field; did you mean width? (fields: name, store, width, "),
    ("{name: less, width: atuo}", VECTORS, "features.f.width is 'atuo'; it must be a whole number or 'auto'; did you mean auto?"),
    ("{name: trak, width: auto}", VECTORS, "features.f.width is 'auto'; it must be a whole number"),
    ("{name: less, width: 0}", VECTORS, "features.f.width is 0; it must be greater than or equal to 1"),
    ("{name: less, modules: []}", VECTORS, "features.f.modules is a list; it must "),
    ("{name: less, modules: attn}", VECTORS, "features.f.modules is 'attn'; it must be 'all' or 'attention' or a list; did you mean attention?"),
    ("{name: less, projection: factord}", VECTORS, "features.f.projection is 'factord'; it must be 'sketch' or 'factored'; did you mean factored?"),
    ("{name: less, similarity: exakt}", VECTORS, "it must be 'auto', 'exact' or 'sketch'; did you mean exact?"),
    ("{name: less, store: float61}", VECTORS, "it must be 'float32', 'float16', 'int8' or 'sign'; did you mean float16?"),
    ("{name: influence, curvature: ekfak}", VECTORS, "it must be 'ekfac', 'kfac' or 'woodbury'; did you mean ekfac?"),
    ("{name: influence, damping: 0}", VECTORS, "features.f.damping is 0; it must be greater than 0"),
    ("{name: influence, curvature: woodbury, normalise: module}", COMPARED, "write normalise: none or row, or curvature: ekfac"),
    ("self_influense", SCORES, "bad.yaml:6: features.f: there is no scorer 'self_influense'; did you mean self_influence? (scorers: bm25, "),
    ("less", "{similarity: f, selector: round_robin}", "arms.a.similarity: scorer less of 'f' yields vectors, not similarity; write vectors: f"),
    ("{name: fail_rate, column_is: grades}", SCORES, "says how to read a column, and none is named; add column, or leave column_is out"),
    ("{name: fail_rate, colum: x}", SCORES, "features.f.colum is not a field; did you mean column?"),
    ("{name: difference, teacher_revision: x}", SCORES, "teacher_revision is that of a Hub model, and no teacher is named; add teacher"),
    ("{name: influence, curvature: woodbury}", VECTORS, "woodbury"),
    ("{name: less, projection: factored, direction: adam}", VECTORS, "write direction: sgd, or projection: sketch"),
    ("{name: influence, projection: factored}", VECTORS, "features.f.projection is 'factored'; it must be 'sketch'"),
    ("{name: trak, projection: factored}", VECTORS, "features.f.projection is 'factored'; it must be 'sketch'"),
    ("{name: bm25, k1: 1.0e+308}", "{similarity: f, selector: round_robin}", "features.f.k1 is 1e+308; it must be less than or equal to 1000"),
    ("{name: dsir, smoothing: 1.0e+308}", SCORES, "features.f.smoothing is 1e+308; it must be less than or equal to 1000000"),
    ("{name: trak, similarity: exact}", COMPARED, "features.f.similarity is 'exact'; it must be 'auto' or 'sketch'"),
]


@pytest.mark.parametrize(("feature", "arm", "said"), FIELDS)
def test_a_wrong_field_is_refused_before_anything_is_computed(run: Run, feature: str, arm: str, said: str) -> None:
    code, message = run(feature, arm, command="validate")
    assert code == 2 and said in message


NOT_TO_BE_HAD = [
    ("{name: influence, curvature: woodbury}", VECTORS, "curvature: ekfac"),
    ("{name: less, projection: factored}", VECTORS, "projection: factored needs plain gradients; write direction: sgd, or projection: sketch"),
    ("difference", SCORES, "difference needs a teacher, the model to learn from: set teacher to a folder, relative to the recipe, or to a Hub id"),
]


@pytest.mark.parametrize(("feature", "arm", "said"), NOT_TO_BE_HAD)
def test_fields_that_do_not_go_together_are_refused(run: Run, feature: str, arm: str, said: str) -> None:
    code, message = run(feature, arm)
    assert code == 2 and said in message and not built("features")


def without_safetensors(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def with_code(model: Path) -> None:
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))


OTHERS = [
    ("{name: embed, path: ./none}", VECTORS, 4, "encoder './none' is not a folder ({}/none does not exist); give a folder with config.json or a Hub id"),
    ("embed", VECTORS, 4, "and the Hub does not give it (revision main: "),
    ("{name: embed, path: pickled}", VECTORS, 4, "{}/pickled has no model.safetensors; pickled weights (.bin, .pt) are refused"),
    ("{name: embed, path: code}", VECTORS, 10, "{}/code/config.json asks for code of the model's repository (auto_map), which is never run"),
    ("{name: difference, teacher: a/b/c}", SCORES, 4, "difference.teacher: path 'a/b/c' is not a folder ({}/a/b/c does not exist)"),
    ("{name: difference, teacher: org/name}", SCORES, 4, "and the Hub does not give it (revision main): "),
    ("{name: difference, teacher: pickled}", SCORES, 4, "difference.teacher: {}/pickled has no model.safetensors; pickled weights (.bin, .pt) are refused"),
    ("{name: difference, teacher: code}", SCORES, 10, "asks for code of the model's repository (auto_map), which is never run"),
]


@pytest.mark.parametrize(("feature", "arm", "code", "said"), OTHERS)
def test_another_model_that_is_not_to_be_had_is_found_before_the_data_is_read(
    run: Run, tiny: Path, tmp_path: Path, feature: str, arm: str, code: int, said: str
) -> None:
    for name, damage in (("pickled", without_safetensors), ("code", with_code)):
        damage(Path(shutil.copytree(tiny, tmp_path / name)))
    found, message = run(feature, arm)
    assert found == code and said.replace("{}", str(tmp_path)) in message
    assert not Path("store").exists()


LAYERS = [("less", COMPARED), ("less", VECTORS), ("grad_norm", SCORES), ("self_influence", SCORES), ("trak", VECTORS)]


@pytest.mark.parametrize(("name", "arm"), LAYERS)
def test_modules_that_match_no_layer_list_those_there_are(run: Run, name: str, arm: str) -> None:
    code, message = run(f"{{name: {name}, modules: [qq_proj]}}", arm)
    assert code == 4 and "features.f: modules ['qq_proj'] match no trained linear layer; this model trains " in message
    assert "k_proj, o_proj, q_proj, " in message
    assert not built("features") and not built("pilot")


def test_modules_that_match_no_layer_are_found_before_the_warm_up(run: Run) -> None:
    assert run("{name: less, modules: [qq_proj]}", COMPARED)[0] == 4
    assert not built("warmup")


def test_a_row_that_float16_cannot_hold_stops_the_run_and_another_format_goes_on(run: Run) -> None:
    code, message = run("{name: trak, width: 64, damping: 1.0e-9, store: float16}", VECTORS)
    assert code == 5 and "beyond float16, which ends at 65504; store this feature as float32 or int8" in message
    kept = {path: path.stat().st_mtime_ns for stage in ("state", "warmup", "features") for path in built(stage)}
    assert {path.name.split("-")[0] for path in kept} == {"state", "warmup", "features"}  # the pool fits, the target does not
    assert run("{name: trak, width: 64, damping: 1.0e-9, store: int8}", VECTORS)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_row_that_float16_cannot_hold_is_named_with_its_feature_and_whose_it_is(run: Run) -> None:
    message = run("{name: trak, width: 64, damping: 1.0e-9, store: float16}", VECTORS)[1]
    assert "feature f" in message and "target" in message and "row 0 " not in message


def test_a_full_disk_is_one_line_and_the_run_goes_on_where_it_stopped(run: Run) -> None:
    replace, room = os.replace, [1]

    def full(source: Any, to: Any) -> None:
        if Path(to).name.startswith("shard-") and Path(to).suffix == ".safetensors":
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, message = run("{name: less, width: 64}", VECTORS, "pool.rows=300")
    assert code == 7 and "shard-000001.safetensors: No space left on device; free or mount the disk and run the same command again" in message
    (first,) = Path("store/.part").glob("features-*/shard-*.safetensors")
    when = first.stat().st_mtime_ns
    assert run("{name: less, width: 64}", VECTORS, "pool.rows=300")[0] == 0
    assert (Path("store") / first.parent.name / first.name).stat().st_mtime_ns == when
    assert not list(Path("store").rglob("*.tmp"))


def test_a_column_that_no_row_has_is_named(run: Run) -> None:
    code, message = run("{name: fail_rate, column: solved}", SCORES)
    assert code == 3 and "fail_rate: no row of the pool has a column 'solved'" in message


def test_a_column_without_a_number_sets_every_row_aside(run: Run) -> None:
    code, message = run("{name: fail_rate, column: kind}", SCORES)  # words
    assert code == 5 and "40 of 40 rows of the pool gave no finite, non-zero number (first: " in message
    assert "look at what such rows of the pool say" in message and "dtype" not in message and "warmup" not in message


TORN: list[tuple[str, Callable[[Path], object], int, str]] = [
    ("absent", shutil.rmtree, 4, "warmup.trainer 'run' is not a folder ({} does not exist); give the output_dir of a Hugging Face Trainer run"),
    ("file", lambda run: (shutil.rmtree(run), run.write_text("")), 4, "warmup.trainer 'run' is not a folder ({} is a file); give the output_dir"),
    ("no-moments", lambda run: (run / "checkpoint-4/optimizer.pt").unlink(), 4, "{}/checkpoint-4 has no optimizer.pt: train with optim: adamw_torch"),
    ("short", lambda run: os.truncate(run / "checkpoint-4/optimizer.pt", 2000), 4, "{}/checkpoint-4/optimizer.pt is no whole file of torch.save"),
    ("code", lambda run: torch.save({"state": Evil()}, run / "checkpoint-2/optimizer.pt"), 10, "optimizer.pt is refused: it asks for posix.system; "),
    ("code-later", lambda run: torch.save({"state": Evil()}, run / "checkpoint-4/optimizer.pt"), 10, "nothing of it was run"),
    ("rank", lambda run: edit(run, r=4), 4, "lora_A.weight is a torch.float32 of shape (2, 128), expected floats of shape (4, 128)"),
    ("rank-later", lambda run: edit(run, 4, r=4), 4, "checkpoint-4 trained adapters of rank 4 and alpha 4, but the model has adapters of rank 2 and alpha 4"),
    ("layers", lambda run: edit(run, target_modules=["c_attn"]), 4, "lora.targets ['c_attn'] match no linear layer; this model has down_proj, "),
    ("dora", lambda run: edit(run, use_dora=True), 4, "adapter_config.json: use_dora is True, which curate's adapters do not have"),
    ("no-log", lambda run: (run / "checkpoint-2/trainer_state.json").write_text("[]"), 4, "trainer_state.json holds a list, not a mapping; copy the"),
]


class Evil:
    """A pickle that leaves a file behind."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def edit(run: Path, *steps: int, **fields: Any) -> None:
    """Change the adapters' settings of these checkpoints, or of both."""
    for step in steps or (2, 4):
        file = run / f"checkpoint-{step}/adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_bytes()), **fields}))


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Trainer's run with two checkpoints of adapters of rank 2."""
    import peft
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("trainer")
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(str(tiny), dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    ids = torch.randint(3, 500, (8, 12))
    rows: Any = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in ids]
    steps: Any = {"max_steps": 4, "save_steps": 2, "logging_steps": 1}
    settings = TrainingArguments(output_dir=str(folder), per_device_train_batch_size=4, learning_rate=1e-3, report_to=[], use_cpu=True, **steps)
    Trainer(model=model, args=settings, train_dataset=rows).train()
    return folder


@pytest.mark.parametrize(("damage", "code", "said"), [case[1:] for case in TORN], ids=[case[0] for case in TORN])
def test_a_trainers_run_that_does_not_fit_is_refused(
    run: Run, trained: Path, tmp_path: Path, damage: Callable[[Path], object], code: int, said: str
) -> None:
    damage(Path(shutil.copytree(trained, tmp_path / "run")))
    found, message = run("less", COMPARED, "warmup={trainer: run}")
    assert found == code and said.replace("{}", str(tmp_path / "run")) in message
    assert not Path("ran").exists() and not built("warmup") and not built("features")


def test_a_trainers_run_of_another_model_is_refused(run: Run, trained: Path, tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    config = json.loads((other / "config.json").read_bytes()) | {"num_hidden_layers": 2}
    (other / "config.json").write_text(json.dumps(config))
    code, message = run("less", COMPARED, "warmup={trainer: run}", "model.path=other")
    assert code == 4 and "adapter_model.safetensors does not belong to this model: it holds base_model.model.model.layers.2" in message


def test_the_resolved_recipe_of_a_run_with_a_trainers_checkpoints_is_a_recipe(run: Run, trained: Path, command_line: Callable[..., int]) -> None:
    assert run("less", COMPARED, f"warmup={{trainer: {trained}}}")[0] == 0
    assert command_line("validate", "runs/bad/recipe.yaml") == 0
