"""Rows on disk: the same rows as lists in memory gave, for any number of processes, in flat memory."""

import hashlib
import json
import pickle
import random
import subprocess
import sys
from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from data_mix.spilled import Spilled
from sft.config import SftConfig
from sft.packing import pack
from sft.samples import PackedRows, TrainingRow
from sft.stage import as_dataset, build_rows, whole_batches
from workbench.conversation import Conversation
from workbench.recipe import load

# Of rows that were lists in memory (commit 0e2f51c), with the tokenizer of this folder's tests.
GOLDEN = {
    "sft1": (4, "5d88d730e4e2d3c4"),  # concatenated, with stripped copies
    "sft2": (48, "fc3c9257683cc0f8"),  # one sample a row
    "sft3": (
        21,
        "28a6906d32fde080",
    ),  # concatenated, with cut traces and the house; some are longer than the row
}


def digest(rows: Sequence[TrainingRow]) -> str:
    made = hashlib.sha256()
    for row in rows:
        made.update(json.dumps([row["input_ids"], row["labels"], row["seq_idx"]]).encode())
    return made.hexdigest()[:16]


def built(tmp_path: Path, tokenizer: Any, name: str, **changes: Any) -> PackedRows:
    config: Any = load("recipes/smoke.yaml", []).stages[name]
    config = config.model_copy(update={"row_tokens": 1024, "drop_longer": True, **changes})
    rows, _, _ = build_rows(config, tokenizer, 7, tmp_path)
    return rows


@pytest.mark.parametrize("name", [*GOLDEN])
def test_rows_of_smoke_are_what_they_were(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    rows = built(tmp_path, tokenizer, name)
    assert (len(rows), digest(rows)) == GOLDEN[name]


def test_rows_are_the_same_for_any_number_of_processes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    part = {"source": {"type": "world", "domain": "math"}, "samples": 600}  # three chunks
    body = {"kind": "sft", "parts": {"world": part}, "row_tokens": 4096, "concatenate": True}
    made = {}
    for workers in (1, 2):
        config = SftConfig.model_validate({**body, "data_workers": workers})
        rows, _, _ = build_rows(config, tokenizer, 7, tmp_path / str(workers))
        made[workers] = digest(rows)
    assert made[1] == made[2]


def by_a_sorted_list(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Best-fit decreasing as it is written down: the smallest room that is enough, the first row of it."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(open_rows, (lengths[index], -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        if room > lengths[index]:
            insort(open_rows, (room - lengths[index], row))
    return rows


def test_packing_equals_best_fit_over_a_sorted_list() -> None:
    rng = random.Random(3)
    for _ in range(300):
        lengths = [rng.randint(1, 64) for _ in range(rng.randint(0, 90))]
        assert pack(lengths, 64).rows == by_a_sorted_list(lengths, 64)


def test_a_process_opens_the_rows_from_their_folder(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = built(tmp_path, tokenizer, "sft1")
    sent = pickle.dumps(rows)
    assert len(sent) < 1000 and list(pickle.loads(sent)) == list(rows)
    spare = whole_batches(tmp_path, 7)
    assert len(spare) == 7 and spare[len(rows)] == {
        "input_ids": [0], "labels": [-100], "seq_idx": [0],
    }  # fmt: skip
    with pytest.raises(IndexError, match="row 7 of 7"):
        spare[7]
    assert spare.columns({"row": [1]})["input_ids"] == [rows[1]["input_ids"]]


def test_a_spilled_list_is_a_list(tmp_path: Path) -> None:
    spilled, plain = Spilled(tmp_path), list[Conversation]()
    for number in range(9):
        one = Conversation(str(number), "d", [{"role": "user", "content": "ü" * number}])
        spilled.append(one)
        plain.append(one)
    spilled[4] = plain[4] = Conversation("anew", "e", [], thinking=False)
    spilled.extend(plain[:2])
    assert list(spilled) == [*plain, *plain[:2]] and len(spilled) == 11
    assert not list(tmp_path.iterdir())  # nothing is left by a kill


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from sft.examples import SampleAccounting, to_rows
from sft.samples import write_samples
count = int(sys.argv[1])
rng = np.random.default_rng(0)
samples = write_samples(
    Path(sys.argv[2]), (("d", rng.integers(0, 300, 40, dtype=np.int32)) for _ in range(count))
)
rows = to_rows(samples, row_tokens=4096, concatenate=True, drop_longer=True, seed=1, accounting=SampleAccounting())
tokens = sum(len(rows[n]["input_ids"]) for n in range(len(rows)))
assert tokens == 40 * count, tokens
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_is_flat_in_the_number_of_samples(tmp_path: Path) -> None:
    """Ten times the samples: 180,000 more of 40 tokens, of which lists took 48 bytes a token."""
    peak = {
        count: int(
            subprocess.run(
                [sys.executable, "-c", MEMORY, str(count), str(tmp_path / str(count))],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for count in (20_000, 200_000)
    }  # fmt: skip
    assert (peak[200_000] - peak[20_000]) / 180_000 < 200  # bytes a sample, whatever its length


def test_trl_reads_from_disk_what_it_read_from_a_list(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = built(tmp_path, tokenizer, "sft1")
    mapped, listed = as_dataset(rows), Dataset.from_list(list(rows))
    assert mapped.__getitems__([2, 0]) == listed.__getitems__([2, 0])
    assert next(iter(mapped)) == listed[0] and len(mapped) == len(listed)
