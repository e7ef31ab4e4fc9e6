"""Rows padded to the longest: the losses of their supervised tokens."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from curate.batches import rectangle, sent
from curate.beat import beat
from curate.core import Row
from curate.model import LanguageModel, logits_at


def padded_losses(model: LanguageModel, rows: Sequence[Row]) -> Tensor:
    """(S,) nats of every supervised token given those before it, row by row; as `curate.model.token_losses`, but the device is never waited for.

    Padding stands behind the tokens, which do not see it, so that attention runs without a mask.
    """
    beat()
    ids, _, supervised = rectangle(rows, model.pad)
    row, place = np.nonzero(supervised[:, 1:])
    tokens, rows_of, places, labels = (sent(array, model.device) for array in (ids, row, place, ids[row, place + 1]))
    return nn.functional.cross_entropy(logits_at(model.model, tokens, None, rows_of, places), labels, reduction="none")
