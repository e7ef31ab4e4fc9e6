"""Variants: many LoRA adapters of one base model, which is loaded once and never changed.

`using(name)` gives the base with that adapter, `using(None)` the base itself. A few adapters are resident; others come from the disk when they are
needed, and the one that was used longest ago goes. An adapter that is used again gives the same bits, whatever was used in between.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curate.errors import IntegrityError, ModelError
from curate.inference.adapter_folder import adapter_folder
from curate.inference.probe import alone_because
from curate.model import LanguageModel
from curate.settings import Lora


class Variants:
    """Adapters by name on one base; bytes: the base, and `resident` adapters of sum over layers of r (inputs + outputs) numbers each.

    An adapter of bfloat16 is computed in float32, as PEFT does by default. The base's parameters take no gradients until `close`.
    """

    def __init__(self, base: LanguageModel, folders: Mapping[str, Path], *, resident: int = 4, lora: Lora | None = None) -> None:
        """`lora` describes the adapters of curate's own checkpoints among the folders."""
        if resident < 1:
            raise ModelError(f"resident is {resident}; at least 1 adapter must be held to be used")
        if getattr(base.model, "peft_config", None):
            raise ModelError("the base model has adapters already; load it without, and give all adapters as variants of it")
        self.base, self.resident = base, resident
        self._folders = {name: adapter_folder(path, lora) for name, path in folders.items()}
        self._keys = {name: f"variant{number}" for number, name in enumerate(folders)}  # for PEFT, where a name may hold no dot
        self._fingerprints: dict[str, str] = {}
        self._weights = dict(base.model.named_parameters(remove_duplicate=False))
        self._trained = [parameter for parameter in self._weights.values() if parameter.requires_grad]
        self._model: Any = None  # PEFT's model around the base, while there is an adapter in it
        self._inside: list[str] = []  # adapters in the model, the one that was used longest ago first
        self._held: list[str] = []  # adapters of the uses that have not ended
        self._active: str | None = None

    @property
    def names(self) -> list[str]:
        """All adapters."""
        return list(self._folders)

    def invocation(self, name: str | None) -> tuple[int, ...]:
        """The tokens from which on an activated adapter acts; empty for all others."""
        return self._folder(name).invocation if name is not None else ()

    def key(self, name: str | None) -> str:
        """What PEFT knows it as."""
        return self._keys[name] if name is not None else "__base__"

    def mixes(self, name: str | None) -> bool:
        """Whether PEFT computes rows of this adapter beside those of others."""
        return name is None or not self._folder(name).settings.get("use_dora")

    def fingerprint(self, name: str) -> str:
        """The hash of an adapter's tensors and settings."""
        if name not in self._fingerprints:
            folder = self._folder(name)
            self._fingerprints[name] = folder.fingerprint(folder.read())
        return self._fingerprints[name]

    @contextmanager
    def using(self, name: str | None) -> Iterator[LanguageModel]:
        """The base with this adapter, or the base; afterwards as before."""
        if self.invocation(name):
            raise ModelError(f"{name} is an activated adapter, which acts from its invocation tokens on; use curate.inference.activated.score_activated")
        with self.together([name]) as model:
            yield model

    @contextmanager
    def together(self, names: Sequence[str | None]) -> Iterator[LanguageModel]:
        """The base with all these adapters in it and the first one active; an activated adapter acts on all tokens that it is given."""
        adapters = [name for name in dict.fromkeys(names) if name is not None]
        before, held = self._active, list(self._held)
        self._bring(adapters)
        self._held += adapters
        try:
            self.activate(adapters[0] if adapters else None)
            yield LanguageModel(self._model, self.base.tokenizer, self.base.device, {}) if adapters else self.base
        finally:
            self._held = held
            self.activate(before)

    def activate(self, name: str | None) -> None:
        """Switch to an adapter that is in the model, or to none."""
        self._active = name
        if self._model is None:
            return
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._keys[name])

    def close(self) -> None:
        """Take all adapters out: the base is then the model that it was."""
        if self._held:
            raise ModelError(f"adapter {self._held[-1]} is in use; leave `using` before `close`")
        self._unload()
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def check_sharing(self, tokens: int) -> None:
        """ModelError if requests of up to so many tokens cannot share what they begin with on this base."""
        with self.together([None]):
            why = alone_because(self.base, tokens)
        if why:
            raise ModelError(f"this base model's requests cannot share what they begin with: {why}; evaluate ordinary adapters one by one, with `using`")

    def _folder(self, name: str) -> Any:
        if name not in self._folders:
            raise ModelError(f"there is no variant {name!r}; there are {', '.join(self._folders) or 'none'}")
        return self._folders[name]

    def _bring(self, adapters: Sequence[str]) -> None:
        needed = {*adapters, *self._held}
        if len(needed) > self.resident:
            raise ModelError(f"{len(needed)} adapters are used at once, but resident is {self.resident}; raise it, or use fewer at once")
        for name in adapters:
            self._folder(name)
            if name not in self._inside:
                if len(self._inside) == self.resident:
                    self._remove(next(other for other in self._inside if other not in needed))
                self._load(name)
            self._inside.remove(name)
            self._inside.append(name)

    def _load(self, name: str) -> None:
        folder = self._folder(name)
        tensors = folder.read()
        now = folder.fingerprint(tensors)
        if self._fingerprints.setdefault(name, now) != now:
            raise IntegrityError(f"{folder.file} changed while its variant {name} was being evaluated; start again with one set of weights")
        # Parameters made in inference mode could not be used outside of it; PEFT draws values that are overwritten at once.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._inject(name, tensors)
        self.activate(self._active)

    def _inject(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        import peft

        folder, key = self._folder(name), self._keys[name]
        config = folder.config()
        try:
            if self._model is None:
                self._model = peft.PeftModelForCausalLM(self.base.model, config, adapter_name=key)
            else:
                self._model.add_adapter(key, config)
        except Exception as error:  # PEFT raises many kinds for layers that it does not know, some when others have their adapters already
            self._start_again()
            why = f"{folder.file.parent} does not fit this base model: {str(error).splitlines()[0]}"
            raise ModelError(f"{why}; give an adapter that was trained on it") from error
        self._inside.append(name)
        expected = peft.get_peft_model_state_dict(self._model, adapter_name=key, save_embedding_layers=False)
        own = {name: tensor for name, tensor in tensors.items() if name in expected or not self._is_of_base(name, tensor)}
        try:
            _check_fit(expected, own, folder.file)
        except ModelError:
            self._remove(name)
            raise
        peft.set_peft_model_state_dict(self._model, own, adapter_name=key)
        self._model.eval()

    def _is_of_base(self, name: str, tensor: Tensor) -> bool:
        """Whether it is a weight of the base as it is: PEFT saves the embedding and the head along with adapters of theirs."""
        weight = self._weights.get(name.removeprefix("base_model.model.").replace(".base_layer.", "."))
        return weight is not None and weight.shape == tensor.shape and torch.equal(weight.detach().cpu(), tensor.to(weight.dtype))

    def _remove(self, name: str) -> None:
        self._inside.remove(name)
        if not self._inside:
            self._unload()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT says which adapter it makes active instead
            self._model.delete_adapter(self._keys[name])
        self.activate(self._active)

    def _start_again(self) -> None:
        """After a failure midway: everything out, and in again what is in use."""
        self._unload()
        for name in dict.fromkeys(self._held):
            self._load(name)

    def _unload(self) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for parent in list(self.base.model.modules()):
            for place, module in list(parent.named_children()):
                if isinstance(module, BaseTunerLayer):
                    setattr(parent, place, module.get_base_layer())
        if hasattr(self.base.model, "peft_config"):
            del self.base.model.peft_config
        self._model, self._inside = None, []


def _check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    odd = sorted(set(expected) ^ set(tensors))
    if odd:
        what = f"it lacks {odd[0]}" if odd[0] in expected else f"it holds {odd[0]}, for which this base and the adapter's settings have no place"
        raise ModelError(f"{file} does not fit this base model: {what}; give an adapter that was trained on it")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            raise ModelError(f"{file} was made for another base model: {shapes}; give an adapter that was trained on this one")
