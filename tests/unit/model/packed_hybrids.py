"""Tiny hybrids and packed rows to try them on."""

from collections import defaultdict

import torch
from transformers import (
    NemotronHConfig,
)

from model.hybrid import build_config

VOCAB = 64


def tiny_config(pattern: str = "M*M-") -> NemotronHConfig:
    return build_config(
        pattern=pattern,
        hidden_size=24,
        intermediate_size=32,
        mamba_num_heads=4,
        mamba_head_dim=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        vocab_size=VOCAB,
        n_groups=2,
        ssm_state_size=8,
        chunk_size=16,
        dtype="float32",
    )


def awake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that state and attention carry across a whole row.

    transformers' initial convolution is so small that a leak would drown in rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "conv1d.weight" in name:
                p.copy_(torch.rand(p.shape, generator=generator) - 0.5)
            elif "dt_bias" in name:
                p.copy_(torch.rand(p.shape, generator=generator) * 4 - 5)
            elif p.ndim == 2:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[1] ** -0.5)
    return model


def layouts(rows: int, length: int, seed: int) -> torch.Tensor:
    """seq_idx [rows, length]: random cuts of many densities, every single offset, all length 1."""
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(rows, 1, generator=generator) ** 3
    cuts = torch.rand(rows, length, generator=generator) < density
    for row in range(min(rows, length - 1)):
        if row % 2:  # one boundary, at every offset of the chunk in turn
            cuts[row] = False
            cuts[row, row] = True
    cuts[-1] = True
    return cuts.cumsum(1).int()


def documents(seq_idx: torch.Tensor) -> list[tuple[int, slice]]:
    """(row, tokens) of every document."""
    found = []
    for row, numbers in enumerate(seq_idx):
        lengths = numbers.unique_consecutive(return_counts=True)[1].tolist()
        first = 0
        for length in lengths:
            found.append((row, slice(first, first + length)))
            first += length
    return found


def logits_alone(model: torch.nn.Module, ids: torch.Tensor, seq_idx: torch.Tensor) -> torch.Tensor:
    """Each document through `model` by itself; documents of one length share a batch."""
    by_length = defaultdict(list)
    for row, tokens in documents(seq_idx):
        by_length[tokens.stop - tokens.start].append((row, tokens))
    out = torch.empty(*ids.shape, VOCAB)
    for found in by_length.values():
        logits = model(torch.stack([ids[r, t] for r, t in found]), use_cache=False).logits
        for (row, tokens), own in zip(found, logits, strict=True):
            out[row, tokens] = own
    return out


def random_ids(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


# 20 x 52 = 1,040 layouts; 32 is the chunk, so lengths around it and off its multiples.
