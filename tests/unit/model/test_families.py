"""Other families through packed rows: what cannot isolate takes its documents one by one, and is proved too."""

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from model.hybrid import load_model
from model.layers.isolation import check_isolation

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 8}
# Family -> what its configuration needs, and a word of the reason; none where rows are packed.
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({}, ""),
    "qwen2": ({}, ""),
    "qwen3": ({}, ""),
    "phi3": ({}, ""),
    "mistral": (WINDOW, "windows"),
    "gemma2": (WINDOW, "windows"),
    "gemma3_text": (WINDOW, "windows"),
    "cohere2": (WINDOW, "windows"),
    "gpt_oss": ({**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}, "windows"),
}


def model_of(family: str) -> Any:
    changes, _ = FAMILIES[family]
    return load_model(AutoConfig.for_model(family, **(SIZES | changes)), seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_packed_or_takes_its_documents_one_by_one(family: str) -> None:
    model = model_of(family)
    check_isolation(model)
    reason = getattr(model.base_model.forward, "reason", "")
    assert FAMILIES[family][1] in reason and bool(FAMILIES[family][1]) == bool(reason)


def test_documents_one_by_one_are_those_alone_and_the_reason_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To the bit, with padding in the row, by ids and in a copy of the model, and 8 tokens on: the window."""
    model = model_of("mistral").eval()
    ids = torch.randint(3, 97, (2, 30), generator=torch.Generator().manual_seed(1))
    numbers = torch.tensor([[0] * 12 + [1] * 18, [0] * 29 + [1]]).int()
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        packed = model(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        again = copy.deepcopy(model)(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        alone = [model(input_ids=ids[:1, :12]).logits, model(input_ids=ids[:1, 12:]).logits]
    assert torch.equal(packed[:1], torch.cat(alone, dim=1))
    assert torch.equal(packed, again)
    said = [r for r in caplog.records if "takes one document at a time" in r.getMessage()]
    assert len(said) == 1
