"""Bits a character of documents that nothing trained on."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_mix.documents import Document
from model.hybrid import load_model
from model.tokenizer import read_tokenizer
from workbench.chat import render
from workbench.conversation import Conversation

_LONGEST = 2048


def bits_a_character(
    folder: Path, documents: Sequence[Document], device: str = "cpu"
) -> list[float]:
    """For each document, minus the log2-probability of its tokens after the first, by their characters.

    Of a conversation, the tokens that the model would generate: its replies. Of more than 2,048 tokens, the
    last so many.
    """
    model, tokenizer = load_model(folder, device=device), read_tokenizer(folder)
    model.eval()
    return [_one(model, tokenizer, document) for document in documents]


def _one(model: Any, tokenizer: Any, document: Document) -> float:
    ids, counted = (part[-_LONGEST:] for part in _ids(tokenizer, document))
    tokens = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    mask = losses.new_tensor(counted[1:])
    said = [id for id, one in zip(ids[1:], counted[1:], strict=True) if one]
    return float((losses * mask).sum()) / math.log(2) / max(len(tokenizer.decode(said)), 1)


def _ids(tokenizer: Any, document: Document) -> tuple[list[int], list[int]]:
    """The ids, and 1 on those that are measured."""
    if isinstance(document, Conversation):
        made = render(
            document.messages, tools=document.tools, thinking=document.thinking, tokenizer=tokenizer
        )
        return list(made.input_ids), list(made.loss_mask)
    ids = list(tokenizer.encode(document, add_special_tokens=False))
    return ids, [1] * len(ids)
