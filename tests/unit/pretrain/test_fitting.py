"""The search of widths under a memory budget, against the paper's budget and its Table 10."""

import dataclasses
import subprocess
import sys

import pytest

from model.presets import shape
from model.sizes import GIB
from pretrain.compress.config import MemoryLoad, Space
from pretrain.compress.fitting import (
    PAPER_LOAD,
    PAPER_SPACE,
    FittingShape,
    candidates,
    needs,
)
from workbench.errors import UserError

# [paper] Table 10: hidden, FFN, Mamba heads -> billions of parameters, 56 layers.
TABLE_10 = {
    (4480, 17920, 112): 8.92,
    (4480, 15680, 128): 8.89,
    (4800, 14400, 120): 8.97,
}


def widths(candidate: FittingShape) -> tuple[int, int, int]:
    s = candidate.shape
    return s.hidden_size, s.intermediate_size, s.mamba_num_heads


def test_the_papers_candidates_are_found_with_their_sizes() -> None:
    assert PAPER_LOAD.memory_gib == pytest.approx(19.66, abs=0.005)  # [paper]
    found = candidates(shape("nano2-9b"), PAPER_SPACE, PAPER_LOAD)
    sizes = {widths(c): c.parameters / 1e9 for c in found}
    assert {w: round(sizes[w], 2) for w in TABLE_10} == TABLE_10
    assert all(len(c.shape.pattern) == 56 for c in found)
    assert needs(shape("nano2-12b"), PAPER_LOAD).total_bytes > PAPER_LOAD.memory_gib * GIB


def test_all_that_fits_is_listed_largest_first() -> None:
    """[derived] Every combination by hand: those left out need more than the budget."""
    s = shape("nano2-9b")
    found = candidates(s, PAPER_SPACE, PAPER_LOAD)
    totals = [c.memory.total_bytes for c in found]
    assert totals == sorted(totals, reverse=True)
    listed = {widths(c) for c in found}
    assert len(listed) == len(found)
    for hidden in PAPER_SPACE.hidden_size:
        for ffn in PAPER_SPACE.ffn:
            for heads in PAPER_SPACE.mamba_heads:
                one = dataclasses.replace(
                    s, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads
                )
                fits = needs(one, PAPER_LOAD).total_bytes <= PAPER_LOAD.memory_gib * GIB
                assert fits == ((hidden, ffn, heads) in listed)


def test_context_batch_and_type_count() -> None:
    """[derived] A second sequence of 128k costs its 2 GiB of KV and its state; fp32 twice the weights."""
    s = shape("nano2-9b")
    one = needs(s, PAPER_LOAD)
    two = needs(s, PAPER_LOAD.model_copy(update={"batch": 2}))
    assert two.total_bytes - one.total_bytes == one.kv_cache_bytes + one.state_bytes
    assert one.kv_cache_bytes == 2 * GIB
    wide = needs(s, PAPER_LOAD.model_copy(update={"bytes_per_value": 4}))
    assert wide.weights_bytes == 2 * one.weights_bytes
    assert len(candidates(s, PAPER_SPACE, PAPER_LOAD.model_copy(update={"batch": 2}))) < len(
        candidates(s, PAPER_SPACE, PAPER_LOAD)
    )


def test_a_budget_that_nothing_fits_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no combination fits 1 GiB; the smallest needs") as caught:
        candidates(shape("nano2-9b"), PAPER_SPACE, MemoryLoad(memory_gib=1))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not a multiple of n_groups"):
        candidates(
            shape("nano2-9b"),
            Space(hidden_size=(4480,), ffn=(13440,), mamba_heads=(113,)),
            PAPER_LOAD,
        )


def test_the_command_prints_the_list() -> None:
    words = ["--model", "miniature", "--budget-gib", "0.004", "--context", "1024", "--bytes", "4",
             "--hidden", "96,112,128", "--ffn", "256,384,512", "--heads", "4,6,8", "--top", "3"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "scripts/search_widths.py", *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("combinations fit 0.004 GiB")
    assert len(lines) == 2 + 3
    wrong = subprocess.run(
        [sys.executable, "scripts/search_widths.py", "--hidden", "a,b"],
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: 'a,b' is not a list of whole numbers, e.g. 4480,4800,5120\n"
