"""Encoders are pooled as their folder says, row by row, and refused in one line where they cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from curate import encoder as encoders
from curate.encoder import load
from curate.encoder_folder import Pooling, read_layout
from curate.errors import ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60)), "lower", "UPPER"]
SIZES = {"vocab_size": 72, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40}
TEXTS = ["w1 w2 w3", "w4", " ".join(f"w{i}" for i in range(5, 35)), "w7 w8 w9 w10 w11 w12", "w2 w1 w3"]
FAMILIES = ("bert", "llama", "roberta", "t5")


def tokenizer(framed: bool) -> Any:
    """One token per word; `framed` puts [CLS] and [SEP] around a text, as encoders do, else there is not even a padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"} if framed else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", **named)


def build(folder: Path, family: str) -> Any:
    """Save a random encoder of this family in the folder; the model that was saved."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(FAMILIES.index(family))
    model: Any = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES, initializer_range=0.5)),
        "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**SIZES, initializer_range=0.5)),
        "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZES, initializer_range=0.5)),
        "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(vocab_size=72, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
    }[family]()
    model.save_pretrained(folder)
    tokenizer(family != "llama").save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folder and model of every family; nobody may change them."""
    root = tmp_path_factory.mktemp("encoders")
    return {family: (root / family, build(root / family, family)) for family in FAMILIES}


@pytest.fixture
def bert(built: dict[str, tuple[Path, Any]], tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be changed."""
    return Path(shutil.copytree(built["bert"][0], tmp_path / "bert"))


def put(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def change(file: Path, **fields: Any) -> None:
    put(file, {**(json.loads(file.read_text()) if file.exists() else {}), **fields})


def states(model: Any, text: str, framed: bool = True) -> Tensor:
    """(T, D) the last hidden states of one text alone, by the model itself."""
    ids = [WORDS.index(word) for word in text.split()]
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([[2, *ids, 3] if framed else ids])).last_hidden_state[0]
    return found


def pooled(found: Tensor, pooling: str) -> Tensor:
    """(D,) by the definition, in float64."""
    rows = found.double()
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row in rows:
        total += row
    return {"mean": total / len(rows), "cls": rows[0], "last": rows[-1]}[pooling]


def chain(folder: Path, *kinds: str) -> None:
    """Write modules.json as sentence-transformers does."""
    paths = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
    put(folder / "modules.json", [{"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_the_pooled_states_of_the_row_alone(built: dict[str, tuple[Path, Any]], family: str, pooling: Pooling) -> None:
    folder, model = built[family]
    found = load(folder).encode(TEXTS, pooling=pooling, normalise=False)
    wanted = torch.stack([pooled(states(model, text, family != "llama"), pooling) for text in TEXTS])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    unit = load(folder).encode(TEXTS, pooling=pooling)
    torch.testing.assert_close(unit.double(), wanted / wanted.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_alone_gives_the_same_vector(
    built: dict[str, tuple[Path, Any]], family: str, pooling: Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(built[family][0])
    together = encoder.encode(TEXTS, pooling=pooling)
    torch.testing.assert_close(torch.cat([encoder.encode([text], pooling=pooling) for text in TEXTS]), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1], pooling=pooling).flip(0), together, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(encoders, "MICRO_BATCH_TOKENS", 16)
    torch.testing.assert_close(encoder.encode(TEXTS, pooling=pooling), together, rtol=1e-4, atol=1e-5)


def test_a_longer_text_is_cut_to_the_length_that_is_asked_for(built: dict[str, tuple[Path, Any]]) -> None:
    encoder = load(built["bert"][0])
    words = [f"w{i}" for i in range(30)]
    assert encoder.encode([" ".join(words)], max_length=12).equal(encoder.encode([" ".join(words[:10])]))  # and two special tokens
    assert not encoder.encode([" ".join(words)], max_length=13).equal(encoder.encode([" ".join(words[:10])]))


@pytest.mark.parametrize("family", ["bert", "llama", "roberta"])
def test_no_text_is_longer_than_the_positions_of_the_model(built: dict[str, tuple[Path, Any]], family: str) -> None:
    encoder = load(built[family][0])
    room = {"bert": 38, "llama": 40, "roberta": 36}[family]  # RoBERTa counts from behind its padding token
    words = [f"w{i % 60}" for i in range(200)]
    assert encoder.encode([" ".join(words)]).equal(encoder.encode([" ".join(words[:room])]))


@pytest.mark.parametrize(
    ("name", "fields", "wanted"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 9}, 9),
        ("sentence_roberta_config.json", {"max_seq_length": 9}, 9),
        ("sentence_bert_config.json", {"max_seq_length": None}, 40),
        ("sentence_bert_config.json", {"max_seq_length": 64}, 40),
        ("tokenizer_config.json", {"model_max_length": 11}, 11),
        ("tokenizer_config.json", {"model_max_length": 1e30}, 40),
    ],
)
def test_the_folder_says_how_long_a_text_may_be(bert: Path, name: str, fields: dict[str, Any], wanted: int) -> None:
    change(bert / name, **fields)
    assert read_layout(bert).max_length == wanted
    words = [f"w{i % 60}" for i in range(100)]
    assert load(bert).encode([" ".join(words)]).equal(load(bert).encode([" ".join(words[: wanted - 2])]))


def test_the_padding_and_truncation_saved_with_a_tokenizer_take_no_part(bert: Path, built: dict[str, tuple[Path, Any]]) -> None:
    change(
        bert / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    )
    change(bert / "tokenizer_config.json", padding_side="left")
    assert load(bert).encode(TEXTS).equal(load(built["bert"][0]).encode(TEXTS))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 16}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
def test_auto_pools_as_the_folder_says(bert: Path, fields: dict[str, Any], wanted: Pooling) -> None:
    chain(bert, "Transformer", "Pooling")
    put(bert / "1_Pooling" / "config.json", fields)
    encoder = load(bert)
    assert encoder.encode(TEXTS).equal(encoder.encode(TEXTS, pooling=wanted))
    others = {"mean", "cls", "last"} - {wanted}
    assert not any(encoder.encode(TEXTS).allclose(encoder.encode(TEXTS, pooling=other)) for other in others)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"pooling_mode_weightedmean_tokens": True}, {"pooling_mode": "max"}, {"pooling_mode": ["cls", "mean"]}])
def test_another_pooling_is_refused_unless_one_is_chosen(bert: Path, fields: dict[str, Any]) -> None:
    put(bert / "1_Pooling" / "config.json", fields)
    with pytest.raises(ModelError, match="only mean, cls and last are supported: set pooling") as caught:
        load(bert).encode(TEXTS)
    assert "\n" not in str(caught.value)
    assert load(bert).encode(TEXTS, pooling="mean").isfinite().all()


@pytest.mark.parametrize(("activation", "function"), [("Identity", lambda x: x), ("Tanh", np.tanh), ("ReLU", lambda x: np.maximum(x, 0))])
def test_dense_and_normalize_follow_the_pooling(
    bert: Path, built: dict[str, tuple[Path, Any]], activation: str, function: Callable[[Any], Any]
) -> None:
    chain(bert, "Transformer", "Pooling", "Dense", "Normalize")
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(6, 16)).astype(np.float32), generator.normal(size=6).astype(np.float32)
    put(bert / "2_Dense" / "config.json", {"in_features": 16, "out_features": 6, "activation_function": f"torch.nn.modules.activation.{activation}"})
    save_file({"linear.weight": torch.from_numpy(weight), "linear.bias": torch.from_numpy(bias)}, bert / "2_Dense" / "model.safetensors")
    found = load(bert).encode([*TEXTS, None], normalise=False).numpy()
    projected = function(load(built["bert"][0]).encode(TEXTS, normalise=False).numpy() @ weight.T + bias)
    np.testing.assert_allclose(found[:-1], projected / np.linalg.norm(projected, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    assert found.shape == (len(TEXTS) + 1, 6) and np.isnan(found[-1]).all()


def test_sentence_transformers_gives_the_same_vectors(bert: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    parts = [modules.Transformer(str(bert)), modules.Pooling(16, "cls"), modules.Dense(16, 5), modules.Normalize()]
    theirs = library.SentenceTransformer(modules=parts, device="cpu", prompts={"short": "w7 "}, default_prompt_name="short")
    theirs.save(str(tmp_path / "saved"))
    torch.testing.assert_close(load(tmp_path / "saved").encode(TEXTS), torch.from_numpy(theirs.encode(TEXTS)), rtol=1e-4, atol=1e-5)


def test_a_transformer_may_have_a_folder_of_its_own(bert: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    put(whole / "modules.json", [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}])
    shutil.copytree(bert, whole / "0_Transformer")
    assert load(whole).encode(TEXTS).equal(load(bert).encode(TEXTS))


def test_the_prompt_and_lower_case_of_the_folder_are_used(bert: Path, built: dict[str, tuple[Path, Any]]) -> None:
    put(bert / "config_sentence_transformers.json", {"prompts": {"a": "w9 ", "b": "w8 "}, "default_prompt_name": "a"})
    put(bert / "sentence_bert_config.json", {"do_lower_case": True})
    plain = load(built["bert"][0])
    assert load(bert).encode(["w1 LOWER"]).equal(plain.encode(["w9 w1 lower"]))
    put(bert / "config_sentence_transformers.json", {"prompts": {"a": "w9 "}, "default_prompt_name": None})
    load.cache_clear()
    assert load(bert).encode(["w1"]).equal(plain.encode(["w1"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_without_words_gives_nan_and_leaves_its_neighbours_alone(built: dict[str, tuple[Path, Any]], family: str) -> None:
    encoder = load(built[family][0])
    found = encoder.encode([None, TEXTS[0], "", " \n", TEXTS[1]])
    assert found.isnan().all(1).tolist() == [True, False, True, True, False]
    assert found[[1, 4]].equal(encoder.encode(TEXTS[:2]))
    assert encoder.encode([None]).shape == (1, 16) and encoder.encode([]).shape == (0, 16)


def test_half_precision_weights_give_float32_vectors(bert: Path, built: dict[str, tuple[Path, Any]]) -> None:
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(bert / "model.safetensors").items()}
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    change(bert / "config.json", dtype="bfloat16")
    found = load(bert).encode(TEXTS)
    assert found.dtype == torch.float32 and (found * load(built["bert"][0]).encode(TEXTS)).sum(1).min() > 0.99
    torch.testing.assert_close(torch.cat([load(bert).encode([text]) for text in TEXTS]), found, rtol=1e-4, atol=1e-5)
