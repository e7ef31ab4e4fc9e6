"""Whether a model can run the training passes exactly: tried on the model itself, before it is trusted."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from curate.core import Row
from curate.errors import ModelError
from curate.model import LanguageModel, decoder_of, token_losses
from curate.training.attending import Asked, attending
from curate.training.stretches import Stretches

_ALLOWED = {torch.float32: 1e-4, torch.float64: 1e-6}  # nats per token, relative to 1 + nats; the padded losses are float32; 16-bit numbers have 0.1


def probe_rows(model: LanguageModel, lengths: Sequence[int]) -> list[Row]:
    """Rows of arbitrary tokens of the model, all supervised."""
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    tokens = (np.arange(sum(lengths)) * 7919 % vocabulary).astype(np.int32)
    return [Row(part, np.ones(len(part), bool)) for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def own_losses(model: LanguageModel, row: Row) -> Tensor:
    """(S,) nats of the row's supervised tokens by the model's own attention."""
    return token_losses(model.model, model.batch([row]))[0]


def unfit(model: LanguageModel, passes: Callable[[], Tensor], own: Callable[[], Tensor]) -> str:
    """Why `passes` must not stand for `own`; empty where it may. Dropout is off, and nothing is trained."""
    training = model.model.training
    model.model.eval()
    try:
        with torch.no_grad():
            return _layers_unfit(model) or _differ(model, passes(), own())
    except ModelError as error:
        return str(error)
    except Exception as error:  # whatever an architecture that was not meant for this does
        return f"its layers do not run so ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
    finally:
        model.model.train(training)


def _differ(model: LanguageModel, found: Tensor, own: Tensor) -> str:
    allowed = _ALLOWED.get(next(model.model.parameters()).dtype, 0.1)
    if (abs(found - own) <= allowed * (1 + abs(own))).all():
        return ""
    return f"the losses of a probe differ ({found.sum():.4f} nats, {own.sum():.4f} by its own attention)"


class _Windows:
    """What every layer says about how far it sees."""

    def __init__(self, tokens: int) -> None:
        self.found: dict[int, int | None] = {}
        self._stretches = Stretches([tokens], [tokens])

    def attend(self, asked: Asked) -> Tensor:
        self.found[asked.layer] = asked.window
        return self._stretches.attend(asked)


def _layers_unfit(model: LanguageModel) -> str:
    """Why the layers are not what these passes compute: attention by transformers' interface, full or within a window that it is told."""
    config = model.model.config.get_text_config()
    layers, window = int(config.num_hidden_layers), getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"] * layers
    odd = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if odd:
        return f"it has layers of the kind {odd[0]}"
    ids = torch.from_numpy(probe_rows(model, [8])[0].input_ids).long().unsqueeze(0).to(model.device)
    step = _Windows(8)
    with attending(model, step):
        decoder_of(model.model)(input_ids=ids, use_cache=False)
    if len(step.found) < layers:
        return f"{layers - len(step.found)} of its {layers} layers do not attend by transformers' attention interface"
    told = [window if kind == "sliding_attention" else None for kind in kinds]
    strange = [layer for layer in range(layers) if step.found.get(layer, -1) != told[layer]]
    return f"layer {strange[0]} does not say how far it sees" if strange else ""
