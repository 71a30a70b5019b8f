"""Which widths fit a memory budget (arXiv 2508.14444, section 4): every combination, largest first.

The candidates are then pruned, distilled for a short while and compared; how long and by what is the
recipe's affair. Closed formulas of model.sizes; imports no torch. On the command line:
scripts/search_widths.py.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from model.presets import HybridShape
from model.sizes import GIB, Memory, memory, parameters
from workbench.errors import UserError


@dataclasses.dataclass(frozen=True)
class Space:
    """The values of each width that are tried.

    Example: Space(hidden_size=(4480, 4800, 5120), ffn=(13440, 15680), mamba_heads=(112, 128))
    """

    hidden_size: Sequence[int]
    ffn: Sequence[int]
    mamba_heads: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Load:
    """What must fit at once. budget_bytes: for weights, KV cache and recurrent state together.

    The paper's: 22.06 GiB of an A10G, less 5% for the framework and 1.3 GiB for a vision encoder.
    """

    budget_bytes: float
    context_tokens: int = 131072
    batch: int = 1
    bytes_per_value: int = 2


PAPER_LOAD = Load(budget_bytes=(22.06 * 0.95 - 1.3) * GIB)
PAPER_SPACE = Space(
    # The ends are the paper's, the steps between them ours: it prints none.
    hidden_size=tuple(range(4480, 5121, 320)),
    ffn=tuple(range(13440, 20481, 320)),
    mamba_heads=(112, 120, 128),
)


class Candidate(NamedTuple):
    """One combination, its size and what it takes at the load."""

    shape: HybridShape
    parameters: int
    memory: Memory


def candidates(s: HybridShape, space: Space, load: Load) -> list[Candidate]:
    """All shapes with s's layers and a combination of widths that fit, by memory, largest first.

    Of equal memory the wider hidden size comes first. Raises: UserError where none fits.
    """
    every = []
    for hidden, ffn, heads in product(space.hidden_size, space.ffn, space.mamba_heads):
        one = dataclasses.replace(
            s, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads
        )
        every.append(Candidate(one, parameters(one), needs(one, load)))
    found = [c for c in every if c.memory.total_bytes <= load.budget_bytes]
    if not found:
        least = min((c.memory.total_bytes for c in every), default=0)
        raise UserError(
            f"no combination fits {load.budget_bytes / GIB:,.2f} GiB; the smallest needs "
            f"{least / GIB:,.2f} GiB: take fewer layers, or allow smaller widths"
        )
    return sorted(found, key=_order)


def needs(s: HybridShape, load: Load) -> Memory:
    """Memory of a shape at the load."""
    return memory(
        s, tokens=load.context_tokens, batch=load.batch, bytes_per_value=load.bytes_per_value
    )


def _order(candidate: Candidate) -> tuple[int, int, int]:
    s = candidate.shape
    return -candidate.memory.total_bytes, -s.hidden_size, -s.intermediate_size


def table(found: Iterable[Candidate], top: int) -> list[str]:
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
