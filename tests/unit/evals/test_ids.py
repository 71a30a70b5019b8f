"""Questions of one id would share seeds, stored replies and a place in the interval: they are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import Sampling
from evals.jobs import Job
from evals.registry import benchmark
from evals.samples import samples_of
from evals.sources import Loading
from workbench.conversation import Conversation
from workbench.errors import UserError


def ifeval(folder: Path, keys: list[Any]) -> Loading:
    rows = [
        {"prompt": f"Say {n}.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        | ({"key": key} if key != "none" else {})
        for n, key in enumerate(keys)
    ]
    path = folder / "ifeval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Loading(folder)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([1, 2, "1"], r"ifeval\.jsonl, line 3: id '1' is also that of .*ifeval\.jsonl, line 1"),
        ([1, None], r"ifeval\.jsonl, line 2: key is null"),
        ([1, "none"], r"ifeval\.jsonl, line 2: key is null"),
    ],
)
def test_rows_of_an_own_file(tmp_path: Path, keys: list[Any], says: str) -> None:
    assert len(benchmark("ifeval").load(ifeval(tmp_path, [1, 2, "b"]))) == 3
    with pytest.raises(UserError, match=says):
        benchmark("ifeval").load(ifeval(tmp_path, keys))


def test_questions_of_any_benchmark() -> None:
    twice = [Conversation("q", "x", [{"role": "user", "content": text}]) for text in "ab"]
    whole = replace(benchmark("mini-math"), load=lambda loading: twice)
    job = Job(whole, None, None, Sampling(max_tokens=8, seed=1))
    nobody: Any = type("Nobody", (), {"tokenizer": None})()
    with pytest.raises(UserError, match="'mini-math': row 2: id 'q' is also that of row 1"):
        samples_of(job, nobody, Path())
