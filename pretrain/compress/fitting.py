"""Which widths fit a memory budget (arXiv 2508.14444, section 4): every combination, largest first.

The first of them are then pruned, distilled for a short while and compared: stage kind `search`
(pretrain/search). Closed formulas of model.sizes; imports no torch. On the command line:
scripts/search_widths.py.
"""

import dataclasses
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

from model.presets import HybridShape
from model.sizes import GIB, Memory, memory, parameters
from pretrain.compress.config import MemoryLoad, Space
from workbench.errors import UserError

# The paper's load is the default of `Load`: 22.06 GiB of an A10G, less 5% and 1.3 GiB.
PAPER_LOAD = MemoryLoad()
PAPER_SPACE = Space(
    # The ends are the paper's, the steps between them ours: it prints none.
    hidden_size=tuple(range(4480, 5121, 320)),
    ffn=tuple(range(13440, 20481, 320)),
    mamba_heads=(112, 120, 128),
)


class FittingShape(NamedTuple):
    """One combination, its size and what it takes at the load."""

    shape: HybridShape
    parameters: int
    memory: Memory


def candidates(s: HybridShape, space: Space, load: MemoryLoad) -> list[FittingShape]:
    """All shapes with s's layers and a combination of widths that fit, by memory, largest first.

    Of equal memory the wider hidden size comes first. Raises: UserError where none fits.
    """
    every = []
    for hidden, ffn, heads in product(space.hidden_size, space.ffn, space.mamba_heads):
        one = dataclasses.replace(
            s, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads
        )
        every.append(FittingShape(one, parameters(one), needs(one, load)))
    found = [c for c in every if _fits(c, load)]
    if not found:
        least = min(every, key=lambda c: c.memory.total_bytes)
        most = f" and {load.parameters:,} parameters" if load.parameters else ""
        raise UserError(
            f"no combination fits {load.memory_gib:,.4g} GiB{most}; the smallest needs "
            f"{least.memory.total_bytes / GIB:,.4g} GiB and has {least.parameters:,}: take fewer layers, "
            "or allow smaller widths"
        )
    return sorted(found, key=_order)


def needs(s: HybridShape, load: MemoryLoad) -> Memory:
    """Memory of a shape at the load."""
    return memory(
        s, tokens=load.context_tokens, batch=load.batch, bytes_per_value=load.bytes_per_value
    )


def _fits(candidate: FittingShape, load: MemoryLoad) -> bool:
    few = load.parameters is None or candidate.parameters <= load.parameters
    return few and candidate.memory.total_bytes <= load.memory_gib * GIB


def _order(candidate: FittingShape) -> tuple[int, int, int]:
    s = candidate.shape
    return -candidate.memory.total_bytes, -s.hidden_size, -s.intermediate_size


def table(found: Iterable[FittingShape], top: int) -> list[str]:
    """The first `top` candidates as aligned lines."""
    lines = ["layers  hidden     ffn  heads  parameters     GiB"]
    for candidate in list(found)[:top]:
        s = candidate.shape
        lines.append(
            f"{len(s.pattern):>6}  {s.hidden_size:>6}  {s.intermediate_size:>6}  "
            f"{s.mamba_num_heads:>5}  {candidate.parameters / 1e9:>9.3f}B  "
            f"{candidate.memory.total_bytes / GIB:>6.2f}"
        )
    return lines
