"""What is no adapter, or none of this base, is refused in one line, and nothing of it stays in the base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.errors import ModelError, SafetyError
from curate.inference.variants import Variants
from curate.testing.random_models import random_model
from tests.inference.random_adapters import changed, loaded_alone, logits, save_adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("adapters")
    return {"plain": save_adapter(top / "plain"), "dora": save_adapter(top / "dora", 2, use_dora=True)}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "'PROMPT_TUNING' adds to the prompt"),
        ({"peft_type": "IA3"}, "'IA3' is no LoRA"),
        ({"peft_type": None}, "None is no LoRA"),
        ({"bias": "all"}, "bias is 'all', with which an adapter cannot share its base model"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow is 3"),
        ({"alora_invocation_tokens": ["yes"]}, "not a list of tokens"),
    ],
)
def test_what_cannot_share_a_base_is_refused_by_its_configuration(folders: dict[str, Path], tmp_path: Path, values: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        Variants(random_model(), {"odd": changed(folders["plain"], tmp_path / "odd", **values)})
    assert "\n" not in str(caught.value)


def test_what_is_no_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    base = random_model()
    pickled = changed(folders["plain"], tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(SafetyError, match="pickled weights, which are refused"):
        Variants(base, {"a": pickled})
    (pickled / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match="has no adapter_model.safetensors"):
        Variants(base, {"a": pickled})
    for path, line in [(tmp_path, "is not an adapter"), (tmp_path / "none", "does not exist"), (pickled / "adapter_config.json", "is a file")]:
        with pytest.raises(ModelError, match=line):
            Variants(base, {"a": path})
    variants = Variants(base, folders)
    with pytest.raises(ModelError, match="there is no variant 'b'; there are plain, dora"), variants.using("b"):
        pass
    with variants.using("plain"), pytest.raises(ModelError, match="the base model has adapters already"):
        Variants(base, folders)


def broken(folder: Path, to: Path, kind: str) -> Path:
    """A copy with weights that are wrong in one way."""
    file = changed(folder, to) / "adapter_model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    if kind == "NaN":
        tensors[first][0, 0] = float("nan")
    elif kind == "fewer":
        del tensors[first]
    elif kind == "more":
        tensors["base_model.model.model.norm.weight"] = torch.ones(64) * 2
    if kind == "no file":
        file.write_bytes(b"nothing")
    else:
        save_file(tensors, file)
    return to


@pytest.mark.parametrize(
    ("kind", "line"), [("NaN", "holds NaN"), ("fewer", "it lacks base_model"), ("more", "it holds base_model.model.model.norm"), ("no file", "cannot be read")]
)
def test_damaged_weights_are_refused_and_leave_the_others_alone(folders: dict[str, Path], tmp_path: Path, kind: str, line: str) -> None:
    bad = broken(folders["plain"], tmp_path / "bad", kind)
    variants = Variants(random_model(), {"bad": bad, "good": folders["dora"]}, resident=2)
    for _ in range(2):
        with pytest.raises(ModelError, match=line) as caught, variants.using("bad"):
            pass
        assert "\n" not in str(caught.value)
        with pytest.raises(ModelError, match=line), variants.together(["good", "bad"]):
            pass
        assert torch.equal(logits(variants.base.model), logits(random_model().model))
        with variants.using("good") as model:
            assert torch.equal(logits(model.model), logits(loaded_alone(folders["dora"])))


def test_an_adapter_of_another_base_is_refused_and_leaves_the_base_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    shape = save_adapter(tmp_path / "shape", architecture="llama_one_kv_head")
    kind = save_adapter(tmp_path / "kind", architecture="gpt_neox")
    norms = changed(folders["plain"], tmp_path / "norms", target_modules=["q_proj", "input_layernorm"])  # fails when some layers are adapted already
    variants = Variants(random_model(), {"shape": shape, "kind": kind, "norms": norms, "good": folders["plain"]})
    lines = {"shape": r"was made for another base model: .* is \(16, 4\), expected \(32, 4\)", "kind": "does not fit", "norms": "does not fit"}
    for good in (False, True):
        for name, line in lines.items():
            with pytest.raises(ModelError, match=line) as caught, variants.using(name):
                pass
            assert "\n" not in str(caught.value)
            assert torch.equal(logits(variants.base.model), logits(random_model().model))
        if good:
            continue
        with variants.using("good") as model:
            for name in lines:
                with pytest.raises(ModelError), variants.using(name):
                    pass
                assert torch.equal(logits(model.model), logits(loaded_alone(folders["plain"])))


def test_an_activated_adapter_is_not_used_like_a_plain_one(tmp_path: Path) -> None:
    variants = Variants(random_model(), {"a": save_adapter(tmp_path / "a", alora_invocation_tokens=[5, 6])})
    assert variants.invocation("a") == (5, 6)
    with pytest.raises(ModelError, match="acts from its invocation tokens on"), variants.using("a"):
        pass
