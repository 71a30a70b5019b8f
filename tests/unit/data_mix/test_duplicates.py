"""Stage `dedup`: against brute force, across stages, in scripts with and without blanks."""

import json
import random
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_mix.dedup import shingles
from data_mix.duplicates import passes
from data_mix.duplicates.files import EXACT, KEEP, NEAR, ShardFile, Work, opened
from data_mix.duplicates.passes import Shape, decide, pair, write_keys
from data_mix.duplicates.signature import Signer, band_keys, exact_key, shingles_of
from tests.data_stages import data_of, files_of, rows_of, run_stages
from workbench.errors import UserError

WORDS = [f"word{n}" for n in range(500)]
CHARACTERS = [chr(0x4E00 + n) for n in range(2000)]


def jaccard(a: str, b: str) -> float:
    """By the sets of runs themselves."""
    one, two = _shingles(a), _shingles(b)
    return len(one & two) / len(one | two)


_shingles = cache(shingles)


def changed(rng: random.Random, text: list[str], count: int) -> list[str]:
    out = list(text)
    for place in rng.sample(range(len(out)), count):
        out[place] = "x"
    return out


@pytest.mark.parametrize(("units", "join", "size"), [(WORDS, " ", 300), (CHARACTERS, "", 600)])
def test_equal_places_estimate_the_similarity_of_the_sets_in_every_script(
    units: list[str], join: str, size: int
) -> None:
    """Within 4 standard errors of 512 places, and unbiased [derived]."""
    rng, signer, errors = random.Random(0), Signer(512), []
    for number in range(30):
        text = rng.choices(units, k=size)
        other = changed(rng, text, number)
        true = jaccard(join.join(text), join.join(other))
        one, two = (signer.signature(join.join(t)) for t in (text, other))
        estimate = float((one == two).mean())
        assert abs(estimate - true) <= 4 * (true * (1 - true) / 512) ** 0.5 + 1e-9
        errors.append(estimate - true)
    assert abs(np.mean(errors)) < 0.01


def test_runs_are_those_of_the_sets() -> None:
    for text in (
        "",
        "one",
        "one two three four",
        " ".join(WORDS),
        "天地玄黄宇宙洪荒日月盈昃辰宿列张",
    ):
        assert len(set(shingles_of(text).tolist())) == len(shingles(text))


def test_a_band_is_a_key_of_its_own_numbers() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2**32, (1, 12), dtype=np.uint32)
    other = one.copy()
    other[0, 4] += 1  # in the second of three bands
    same = band_keys(one, 3) == band_keys(other, 3)
    assert same[:, 0].tolist() == [True, False, True]
    # The same numbers in another band, or in another order, are another key.
    assert len(set(band_keys(np.tile(one[:, :4], 3), 3)[:, 0].tolist())) == 3


def _texts() -> list[str]:
    rng, texts = random.Random(4), list[str]()
    for _ in range(20):
        text = rng.choices(WORDS, k=200)
        texts += [" ".join(changed(rng, text, count)) for count in (0, 0, 1, 2, 30)]
    return texts


def _stages(folder: Path, texts: list[str], **more: Any) -> dict[str, Any]:
    path = folder / "texts.jsonl"
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "form": "text", "column": "text", "path": str(path)}
    pages = {"kind": "curate", "input": source, "steps": [{"type": "length"}], "rows_per_shard": 30}
    dedup = {"kind": "dedup", "needs": ["pages"], "inputs": ["pages"], "keep_removed": 1.0}
    return {"pages": pages, "clean": {**dedup, **more}}


def test_what_goes_is_what_brute_force_says(tmp_path: Path) -> None:
    texts = _texts()
    run_stages(tmp_path, _stages(tmp_path, texts))
    kept = [int(row["id"]) for row in rows_of(tmp_path, "clean")]
    stays: list[int] = []
    for number, text in enumerate(texts):
        if not any(jaccard(text, texts[earlier]) >= 0.8 for earlier in stays):
            stays.append(number)
    # Each original, and the copy with 30 of 200 words changed; 1 or 2 words leave J above 0.9.
    assert kept == stays and len(kept) == 40
    data = data_of(tmp_path, "clean")
    assert data["removed"] == {"dedup: exact duplicate": 20, "dedup: near duplicate": 40}
    assert not (tmp_path / "clean/checkpoints").exists()


def test_exact_duplicates_alone(tmp_path: Path) -> None:
    texts = ["The cat sat", "a dog", "the   CAT sat", "a dog", ""]
    run_stages(tmp_path, _stages(tmp_path, texts, near=None))
    assert [row["id"] for row in rows_of(tmp_path, "clean")] == ["0", "1"]
    assert exact_key("The cat") != exact_key("Thecat")


def test_conversations_are_compared_by_their_reasoning_and_calls_too(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "2 + 3?"}
    replies = [
        {"role": "assistant", "content": "5", "reasoning_content": "Two and three."},
        {"role": "assistant", "content": "5", "reasoning_content": "Three after two."},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "sum"}}]},
    ]
    rows = [
        {"id": str(n), "domain": "a", "messages": [asked, reply]}
        for n, reply in enumerate([*replies, replies[1]])
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = _stages(tmp_path, [], near=None)
    stages["pages"]["input"] = {"type": "jsonl", "form": "conversation", "path": str(path)}
    run_stages(tmp_path, stages)
    assert [row["id"] for row in rows_of(tmp_path, "clean")] == ["0", "1", "2", "3"]


def test_rows_of_other_stages_stay_and_come_first(tmp_path: Path) -> None:
    texts = _texts()[:20]
    stages = _stages(tmp_path, texts)
    first = {**stages["pages"], "steps": [{"type": "length", "least": 1}]}
    stages = {
        "first": {**first, "rows_per_shard": 7},
        "pages": stages["pages"],
        "clean": {**stages["clean"], "needs": ["first", "pages"], "against": ["first"]},
    }
    run_stages(tmp_path, stages)
    assert rows_of(tmp_path, "clean") == []
    assert sum(data_of(tmp_path, "clean")["removed"].values()) == 20


def test_columns_must_be_the_same(tmp_path: Path) -> None:
    stages = _stages(tmp_path, ["a", "b"])
    (tmp_path / "c.txt").write_text("c")
    files = {**stages["pages"], "input": {"type": "files", "path": str(tmp_path / "c.txt")}}
    both = {"needs": ["pages", "files"], "inputs": ["pages", "files"]}
    with pytest.raises(UserError, match="have other columns"):
        run_stages(tmp_path, {**stages, "files": files, "clean": {**stages["clean"], **both}})


def test_ranges_of_keys_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = _texts()[:60]
    run_stages(tmp_path / "one", _stages(tmp_path, texts))
    monkeypatch.setattr(passes, "RANGE_KEYS", 35)
    run_stages(tmp_path / "many", _stages(tmp_path, texts))
    assert files_of(tmp_path / "one", "clean") == files_of(tmp_path / "many", "clean")


def test_a_row_goes_only_where_it_is_like_one_that_stays(tmp_path: Path) -> None:
    """A chain: b is like a, c is like b and not like a. b goes, so c stays."""
    base = np.arange(120, dtype=np.uint32)
    chain = np.stack([base, base.copy(), base.copy()])
    chain[1:, :12] += 1000  # 90% of the places agree
    chain[2, 60:90] += 1000  # c: 75% with b, 65% with a
    shape = Shape(bands=20, rows=6, near=0.75, ranges=1)
    part, work = ShardFile(0, tmp_path, 0, 0, 3, True), Work(tmp_path)
    write_keys(work, 0, chain, np.arange(3, dtype=np.uint64), shape)
    for band in range(21):
        pair(work, [part], band, 0, shape)
    decide(work, [part], 21)
    assert opened(work.verdict).tolist() == [KEEP, NEAR, KEEP]


def test_unlike_rows_of_one_bucket_are_compared_among_themselves(tmp_path: Path) -> None:
    """All share band 0 alone; the 3rd and 4th are copies of each other, unlike the first two."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2**32, (4, 120), dtype=np.uint32)
    rows[:, :6] = rows[0, :6]
    rows[3] = rows[2]
    shape = Shape(bands=20, rows=6, near=0.8, ranges=1)
    part, work = ShardFile(0, tmp_path, 0, 0, 4, True), Work(tmp_path)
    write_keys(work, 0, rows, np.array([1, 2, 3, 3], np.uint64), shape)
    pair(work, [part], 1, 0, shape)
    assert opened(work.pairs(1)).tolist() == [(3, 2, False)]
    pair(work, [part], 0, 0, shape)
    decide(work, [part], 2)
    assert opened(work.verdict).tolist() == [KEEP, KEEP, KEEP, EXACT]


def test_all_pairs_of_a_small_set_are_found(tmp_path: Path) -> None:
    """Every pair from J = 0.85 shares a band of 20 x 6: the chance of a miss is below 1 in 10,000."""
    texts, signer = _texts()[:60], Signer(120)
    keys = band_keys(np.stack([signer.signature(text) for text in texts]), 20)
    for a, b in combinations(range(60), 2):
        if jaccard(texts[a], texts[b]) >= 0.85:
            assert (keys[:, a] == keys[:, b]).any()
