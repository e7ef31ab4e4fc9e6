"""An adapter swapped in gives what PEFT gives for a base that never had another one, and the base stays what it was."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.adapters import attach_adapters
from curate.errors import IntegrityError, ModelError
from curate.inference.adapter_folder import AdapterFolder
from curate.inference.engine import Engine
from curate.inference.own_attention import score
from curate.inference.variants import Variants
from curate.model import LanguageModel
from curate.settings import Lora, Optimizer
from curate.store import Workspace
from curate.testing.random_models import random_model
from curate.train import save_checkpoint
from tests.inference.random_adapters import changed, loaded_alone, logits, save_adapter
from tests.inference.test_shared_prefixes import requests

KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "head, scaled by the root of the rank": {"target_modules": ["down_proj", "lm_head"], "r": 8, "use_rslora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "DoRA, ranks by layer": {"target_modules": "all-linear", "use_dora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"k_proj": 3}},
    "two layers, with a bias": {"layers_to_transform": [0, 2], "lora_bias": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("adapters")
    return {kind: save_adapter(top / str(number), number, **config) for number, (kind, config) in enumerate(KINDS.items())}


def weights_hash(model: Any) -> str:
    """Of all names and numbers, whatever is wrapped around them."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("resident", [1, 2, 5])
def test_logits_are_those_of_peft_bit_for_bit_in_any_order(folders: dict[str, Path], resident: int) -> None:
    alone = {name: logits(loaded_alone(folders[name] if name else None)) for name in [*folders, None]}
    for name in folders:  # otherwise there is nothing to be told apart
        assert (alone[name] - alone[None]).abs().max() > 0.1
    variants = Variants(random_model(), folders, resident=resident)
    for number in (0, 1, 2, 3, 4, 0, 5, 3, 5, 2, 4, 1, 1, 0):
        name = [*folders, None][number]
        with variants.using(name) as model:
            assert torch.equal(logits(model.model), alone[name])
        assert torch.equal(logits(variants.base.model), alone[None])


def test_the_base_comes_back_as_it_was(folders: dict[str, Path]) -> None:
    base = random_model()
    before, modules = weights_hash(base.model), [type(module) for module in base.model.modules()]
    variants = Variants(base, folders, resident=2)
    for name in folders:
        with torch.inference_mode(), variants.using(name) as model:
            Engine(model).loglikelihoods([[3, 4, 5]], [[[6], [7, 8]]])
    variants.close()
    assert weights_hash(base.model) == before
    assert [type(module) for module in base.model.modules()] == modules
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    assert not getattr(base.model, "peft_config", None)
    again = Variants(base, folders)
    with again.using("attention") as model:
        assert torch.equal(logits(model.model), logits(loaded_alone(folders["attention"])))


def test_a_use_within_a_use_leaves_the_outer_one_as_it_was(folders: dict[str, Path]) -> None:
    variants = Variants(random_model(), folders, resident=2)
    outer, inner = logits(loaded_alone(folders["attention"])), logits(loaded_alone(folders["embedding"]))
    with variants.using("attention") as model:
        with variants.using("embedding") as other:
            assert torch.equal(logits(other.model), inner)
        assert torch.equal(logits(model.model), outer)
        with variants.using("two layers, with a bias"):  # pushes out the adapter that is not in use, though it was used later
            pass
        assert torch.equal(logits(model.model), outer)
        with variants.using(None) as base:
            assert torch.equal(logits(base.model), logits(random_model().model))
        assert torch.equal(logits(model.model), outer)
        with variants.using("embedding"):
            with pytest.raises(ModelError, match="3 adapters are used at once, but resident is 2"), variants.using("DoRA, ranks by layer"):
                pass
        with pytest.raises(ModelError, match="in use"):
            variants.close()
        assert torch.equal(logits(model.model), outer)


def test_the_engine_runs_a_variant_as_it_runs_a_model(folders: dict[str, Path]) -> None:
    contexts, continuations = requests(3, shared=20)
    variants = Variants(random_model(), folders, resident=1)
    for name, folder in folders.items():
        alone = LanguageModel(loaded_alone(folder), variants.base.tokenizer, "cpu", {})
        with variants.using(name) as model:
            engine = Engine(model)
            found = engine.loglikelihoods(contexts, continuations)
        assert engine.unshared == ""
        with torch.inference_mode():
            for context, texts, values in zip(contexts, continuations, found, strict=True):
                assert values == pytest.approx([score(alone, context, text).loglikelihood for text in texts], abs=3e-5)


def test_the_least_recently_used_goes_and_the_others_are_not_read_again(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = AdapterFolder.read

    def counted(folder: AdapterFolder) -> dict[str, torch.Tensor]:
        reads.append(folder.file.parent)
        return read(folder)

    monkeypatch.setattr(AdapterFolder, "read", counted)
    variants = Variants(random_model(), folders, resident=2)
    names = list(folders)
    for number in (0, 1, 0, 2, 0, 1):  # 1 goes for 2, and then 2 for 1
        with variants.using(names[number]):
            pass
    assert reads == [folders[names[number]] for number in (0, 1, 2, 1)]


def test_what_was_loaded_in_inference_mode_can_be_used_outside_of_it(folders: dict[str, Path]) -> None:
    variants = Variants(random_model(), folders)
    with torch.inference_mode(), variants.using("attention"):
        pass
    with variants.using("attention") as model:
        model.model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()


def test_nothing_is_drawn_at_random(folders: dict[str, Path]) -> None:
    variants = Variants(random_model(), folders, resident=1)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    for name in folders:
        with variants.using(name):
            pass
    assert torch.equal(torch.rand(1), wanted)


def test_adapters_on_a_base_of_sixteen_bits_keep_their_own(folders: dict[str, Path]) -> None:
    base = random_model()
    base.model.to(torch.bfloat16)
    variants = Variants(base, folders, resident=1)
    for name in ("attention", "head, scaled by the root of the rank"):
        with variants.using(name) as model:
            assert torch.equal(logits(model.model), logits(loaded_alone(folders[name], dtype=torch.bfloat16)))


def test_a_checkpoint_of_our_own_training_is_a_variant(tmp_path: Path) -> None:
    lora = Lora(r=4, alpha=6, targets=["q_proj", "down_proj"])
    trained = random_model()
    adapted, names = attach_adapters(trained.model, lora, seed=3)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in names.values():
            parameter.normal_()
    save_checkpoint(LanguageModel(adapted, trained.tokenizer, "cpu", names), Workspace(tmp_path), "", {"step": 1}, Optimizer())
    variants = Variants(random_model(), {"mine": tmp_path}, lora=lora)
    with variants.using("mine") as model:
        assert torch.equal(logits(model.model), logits(adapted.eval()))
    with pytest.raises(ModelError, match="without their settings; give `lora`"):
        Variants(random_model(), {"mine": tmp_path})
    doubled = Variants(random_model(), {"mine": tmp_path}, lora=Lora(r=4, alpha=12, targets=["q_proj", "down_proj"]))
    assert doubled.fingerprint("mine") != variants.fingerprint("mine")


def test_a_fine_tune_of_all_weights_is_no_variant(tmp_path: Path) -> None:
    save_checkpoint(random_model(), Workspace(tmp_path), "", {"step": 1}, Optimizer())
    with pytest.raises(ModelError, match="a fine-tune of all weights"):
        Variants(random_model(), {"all": tmp_path}, lora=Lora())


def test_a_fingerprint_is_of_what_decides_the_numbers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["attention"]
    elsewhere = {"base_model_name_or_path": "elsewhere", "peft_version": "9", "lora_dropout": 0.3}
    same = changed(folder, tmp_path / "same", target_modules=["v_proj", "q_proj", "k_proj"], **elsewhere)
    scaled = changed(folder, tmp_path / "scaled", lora_alpha=9)
    moved = changed(folder, tmp_path / "moved")
    tensors = load_file(moved / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] += 1e-6
    save_file(tensors, moved / "adapter_model.safetensors")
    variants = Variants(random_model(), {"a": folder, "same": same, "scaled": scaled, "moved": moved})
    known = variants.fingerprint("a")
    assert variants.fingerprint("same") == known
    assert len({known, variants.fingerprint("scaled"), variants.fingerprint("moved")}) == 3
    with variants.using("same") as model:
        assert torch.equal(logits(model.model), logits(loaded_alone(folder)))


def test_weights_that_change_between_two_uses_are_noticed(folders: dict[str, Path], tmp_path: Path) -> None:
    mine = changed(folders["attention"], tmp_path / "mine")
    variants = Variants(random_model(), {"mine": mine, "other": folders["embedding"]}, resident=1)
    for name in ("mine", "other"):
        with variants.using(name):
            pass
    tensors = load_file(mine / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, mine / "adapter_model.safetensors")
    with pytest.raises(IntegrityError, match="changed while its variant mine was being evaluated"), variants.using("mine"):
        pass
