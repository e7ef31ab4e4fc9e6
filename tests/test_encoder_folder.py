"""An encoder is found by folder or Hub id, hashed by the files that decide its vectors, and refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate import encoder_folder
from curate.encoder import load
from curate.encoder_folder import fingerprint, locate, read_layout
from curate.errors import CurateError, ModelError, SafetyError
from curate.scorers.embed import Embed

WORDS = ["[UNK]", "[CLS]", "[SEP]", "w1", "w2"]
SIZES = {"vocab_size": 5, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 12}
Damage = Callable[[Path], None]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with a Dense after its pooling, as sentence-transformers lays it out."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("whole")
    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    modules(("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))(folder)
    put("1_Pooling/config.json", pooling_mode_mean_tokens=True)(folder)
    put("2_Dense/config.json", activation_function="torch.nn.modules.linear.Identity")(folder)
    save_file({"linear.weight": torch.eye(8)}, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def forget_what_the_hub_gave() -> None:
    encoder_folder._refreshed.cache_clear()


@pytest.fixture
def encoder(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "encoder"))


def put(name: str, **fields: Any) -> Damage:
    """Change fields of a JSON file."""

    def change(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **fields}))

    return change


def write(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content) and None


def rename(name: str, new: str) -> Damage:
    return lambda folder: (folder / name).rename(folder / new) and None


def modules(*entries: tuple[str, str], package: str = "sentence_transformers.models.") -> Damage:
    return write("modules.json", json.dumps([{"path": path, "type": package + kind} for path, kind in entries]))


def weights(name: str, file: str = "model.safetensors", value: float | None = None) -> Damage:
    """Set the first number of a tensor, or drop the tensor."""

    def change(folder: Path) -> None:
        found = load_file(folder / file)
        if value is None:
            del found[name]
        else:
            found[name].flatten()[0] = value
        save_file(found, folder / file, metadata={"format": "pt"})

    return change


def add_token(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w3"] = 5
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


# id, the damage, the kind of error, what is said
UNREADABLE: list[tuple[str, Damage, type[CurateError], str]] = [
    ("no-config", rename("config.json", "old"), ModelError, "has no config.json; give the folder of a transformers model"),
    ("garbled", write("config.json", "{"), ModelError, "config.json cannot be read"),
    ("pickle-only", rename("model.safetensors", "pytorch_model.bin"), ModelError, "has no model.safetensors; pickled weights (.bin, .pt) are refused"),
    ("auto-map", put("config.json", auto_map={"AutoModel": "x.Y"}), SafetyError, "config.json asks for code of the model's repository (auto_map)"),
    ("tokenizer-auto-map", put("tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"}), SafetyError, "asks for code of the model's repository"),
    ("no-tokenizer", rename("tokenizer.json", "old"), ModelError, "has no tokenizer.json and no vocabulary; restore the tokenizer"),
    ("adapter", put("adapter_config.json", r=4), ModelError, "holds an adapter, not a whole model"),
    ("quantised", put("config.json", quantization_config={"bits": 4}), ModelError, "are quantised"),
    ("modules-garbled", write("modules.json", "["), ModelError, "modules.json cannot be read (Expecting value"),
    ("modules-mapping", write("modules.json", "{}"), ModelError, "modules.json holds a dict, not a list"),
    ("modules-empty", write("modules.json", "[]"), ModelError, "supported is a Transformer, then Pooling, then Dense and Normalize"),
    ("modules-odd", write("modules.json", "[1]"), ModelError, "modules.json has a module without type or path"),
    ("modules-kind", modules(("", "Transformer"), ("1", "WeightedLayerPooling")), ModelError, "chains Transformer, WeightedLayerPooling; supported is"),
    ("modules-order", modules(("", "Transformer"), ("2_Dense", "Dense"), ("1", "Pooling")), ModelError, "chains Transformer, Dense, Pooling; supported"),
    ("modules-code", modules(("", "Own"), package="own_code."), SafetyError, "asks for code of the encoder's repository (own_code.Own), which is never run"),
    ("modules-outside", modules(("../other", "Transformer")), SafetyError, "names the folder '../other', which is outside the encoder's own"),
    ("dense-pickle", rename("2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"), ModelError, "2_Dense has no model.safetensors; pickled weights"),
    ("dense-activation", put("2_Dense/config.json", activation_function="own.Function"), ModelError, "is not a plain linear layer with one of Identity, Tanh"),
    ("dense-residual", put("2_Dense/config.json", use_residual=True), ModelError, "is not a plain linear layer"),
    ("dense-no-config", rename("2_Dense/config.json", "2_Dense/old"), ModelError, "2_Dense/config.json cannot be read"),
    ("positions", put("config.json", max_position_embeddings="many"), ModelError, "max_position_embeddings is 'many', not a number of tokens"),
    ("chat", put("sentence_bert_config.json", modality_config={"message": {}}), ModelError, "reads its texts through a chat template"),
]
UNLOADABLE: list[tuple[str, Damage, type[CurateError], str]] = [
    ("type", put("config.json", model_type="martian"), ModelError, "does not load: "),
    ("no-encoder", put("config.json", model_type="bart"), ModelError, "does not load: Unrecognized configuration class"),
    ("cut", write("model.safetensors", ""), ModelError, "does not load: Error while deserializing header"),
    ("tokenizer-garbled", write("tokenizer.json", "{"), ModelError, "does not load: "),
    ("missing", weights("encoder.layer.0.output.dense.weight"), ModelError, "lack 1 tensors of the shape that config.json asks for (first: encoder.layer.0."),
    ("shape", put("config.json", intermediate_size=32), ModelError, "tensors of the shape that config.json asks for"),
    ("nan", weights("embeddings.LayerNorm.bias", value=float("nan")), ModelError, "are damaged: embeddings.LayerNorm.bias holds NaN or infinity"),
    ("vocabulary", add_token, ModelError, "has 6 entries but the encoder embeds 5; restore both from one repository"),
    ("dense-name", weights("linear.weight", "2_Dense/model.safetensors"), ModelError, "does not load: 'linear.weight'"),
]


def refused(call: Callable[[], object], kind: type[CurateError], said: str) -> None:
    with pytest.raises(CurateError) as caught:
        call()
    assert type(caught.value) is kind
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "kind", "said"), [case[1:] for case in UNREADABLE], ids=[case[0] for case in UNREADABLE])
def test_an_encoder_that_cannot_be_used_is_refused_before_it_is_loaded(encoder: Path, damage: Damage, kind: type[CurateError], said: str) -> None:
    damage(encoder)
    refused(lambda: fingerprint(encoder), kind, said)


@pytest.mark.parametrize(("damage", "kind", "said"), [case[1:] for case in UNLOADABLE], ids=[case[0] for case in UNLOADABLE])
def test_an_encoder_that_does_not_load_is_refused_in_one_line(encoder: Path, damage: Damage, kind: type[CurateError], said: str) -> None:
    damage(encoder)
    refused(lambda: load(encoder), kind, said)


def test_a_dense_of_another_width_is_refused_when_it_is_loaded(encoder: Path) -> None:
    save_file({"linear.weight": torch.eye(7)}, encoder / "2_Dense" / "model.safetensors")
    refused(lambda: load(encoder), ModelError, "cannot embed a text: mat1 and mat2 shapes cannot be multiplied")


def test_a_pooler_may_be_absent_or_damaged(encoder: Path, whole: Path) -> None:
    weights("pooler.dense.weight")(encoder)
    weights("pooler.dense.bias", value=float("nan"))(encoder)
    assert load(encoder).encode(["w1 w2"]).equal(load(whole).encode(["w1 w2"]))


def test_lengths_that_the_encoder_cannot_keep_are_refused(whole: Path) -> None:
    refused(lambda: read_layout(whole).settings("auto", 13), ModelError, "max_length 13 is more than the 12 positions of the encoder in")
    assert read_layout(whole).settings("auto", 12) == ("mean", 12)


def test_what_prompts_leave_out_of_the_pooling_is_refused(encoder: Path) -> None:
    put("1_Pooling/config.json", include_prompt=False)(encoder)
    assert read_layout(encoder).prompt == ""
    put("config_sentence_transformers.json", prompts={"a": "w2 "}, default_prompt_name="a")(encoder)
    refused(lambda: read_layout(encoder), ModelError, "leaves the prompt of the encoder in")


@pytest.mark.parametrize("prompts", [None, [], {"a": 3}, {"b": "w1 "}])
def test_prompts_that_name_nothing_are_none(encoder: Path, prompts: Any) -> None:
    put("config_sentence_transformers.json", prompts=prompts, default_prompt_name="a")(encoder)
    assert read_layout(encoder).prompt == ""


def test_a_folder_is_found_relative_to_the_recipe(encoder: Path) -> None:
    assert locate("encoder", None, encoder.parent) == locate(str(encoder), None, Path("elsewhere")) == encoder.resolve()
    refused(lambda: locate("encoder", "v1", encoder.parent), ModelError, "revision 'v1' is that of a Hub encoder, but ")


@pytest.mark.parametrize("name", ["./absent", "/absent", "~absent", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    refused(lambda: locate(name, None, tmp_path), ModelError, f"encoder {name!r} is not a folder")


@pytest.mark.parametrize("refresh", [True, False])
def test_a_hub_id_that_is_not_to_be_had_offline_says_what_to_do(tmp_path: Path, refresh: bool) -> None:
    said = "give the folder of an encoder that is here, or check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE"
    refused(lambda: locate("org/absent", None, tmp_path, refresh=refresh), ModelError, said)
    with pytest.raises(ModelError, match="encoder 'org/absent' is no folder .* and the Hub does not give it .revision v2: ") as caught:
        locate("org/absent", "v2", tmp_path, refresh=refresh)
    assert ". " not in str(caught.value)


@pytest.mark.parametrize("refresh", [True, False])
def test_a_hub_id_in_the_cache_is_found_offline(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refresh: bool) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    stored = tmp_path / "hub" / "models--org--tiny"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("0" * 40)
    shutil.copytree(whole, stored / "snapshots" / ("0" * 40))
    found = locate("org/tiny", None, tmp_path, refresh=refresh)
    assert fingerprint(found) == fingerprint(whole)


def test_the_hub_is_asked_for_an_encoder_once_in_a_process(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        return str(whole)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    scorers = Embed(path="org/once"), Embed(path="org/twice", max_length=8)
    hashes = {scorer.inputs(tmp_path)["encoder"] for scorer in scorers for _ in range(3)}
    assert hashes == {fingerprint(whole)} and asked == [("org/once", False), ("org/twice", False)]


@pytest.mark.parametrize("path", ["encoder", "encoder/../encoder", "org/encoder", "org/file"])
def test_what_is_here_is_not_looked_for_on_the_hub(encoder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    (encoder.parent / "org").mkdir()
    (encoder.parent / "org" / "encoder").symlink_to(encoder)
    (encoder.parent / "org" / "file").write_text("no folder")
    for place in ("huggingface_hub.snapshot_download", "socket.socket.connect", "socket.getaddrinfo"):
        monkeypatch.setattr(place, refuse)
    scorer = Embed(path=path)
    if path == "org/file":
        refused(lambda: scorer.inputs(encoder.parent), ModelError, f"encoder 'org/file' is not a folder ({encoder.parent}/org/file is a file); give a folder")
        return
    assert scorer.inputs(encoder.parent) == {"encoder": fingerprint(encoder)}
    assert load(locate(path, None, encoder.parent)).encode(["w1 w2"]).isfinite().all()


@pytest.mark.parametrize(("refresh", "asked"), [(True, [False]), (False, [True, False])])
def test_the_cache_serves_first_unless_the_hub_is_to_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refresh: bool, asked: list[bool]) -> None:
    found: list[bool] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        found.append(local_files_only)
        if local_files_only:
            raise OSError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate("org/tiny", "v1", tmp_path, refresh=refresh) == tmp_path
    assert found == asked


@pytest.mark.parametrize(
    "change",
    [
        put("config.json", layer_norm_eps=0.1),
        put("1_Pooling/config.json", pooling_mode_cls_token=True),
        put("tokenizer_config.json", model_max_length=5),
        put("sentence_bert_config.json", do_lower_case=True),
        weights("embeddings.LayerNorm.bias", value=0.5),
        weights("linear.weight", "2_Dense/model.safetensors", value=0.5),
    ],
)
def test_every_file_that_decides_the_vectors_changes_the_hash(encoder: Path, whole: Path, change: Damage) -> None:
    (encoder / "README.md").write_text("decides nothing")
    before = fingerprint(encoder)
    assert before == fingerprint(whole)
    change(encoder)
    fingerprint.cache_clear()
    assert fingerprint(encoder) != before
