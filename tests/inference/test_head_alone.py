"""The head alone, on hidden states: the logits of a whole pass, and nothing that stays behind."""

import torch

from curate.inference.passes import logits_of
from curate.testing.random_models import random_model


def test_the_head_gives_the_logits_of_a_whole_pass_and_registers_its_class_once() -> None:
    model = random_model("llama")
    ids = torch.arange(7).unsqueeze(0)
    with torch.inference_mode():
        hidden = model.model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(logits_of(model, hidden), model.model(input_ids=ids, use_cache=False).logits[0])
        known = len(torch.utils._pytree.SUPPORTED_NODES)
        for _ in range(3):
            logits_of(model, hidden)
    assert len(torch.utils._pytree.SUPPORTED_NODES) == known
