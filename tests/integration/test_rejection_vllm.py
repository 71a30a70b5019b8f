"""Rejection sampling through a real vLLM engine: what is kept, what is counted, and what SFT reads of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import tiny

pytestmark = pytest.mark.integration
NUM_PROMPTS, SAMPLES = 12, 6


def _says(words: str, n: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"Write {n} words."}
    return {
        "id": f"{words}-{n}", "domain": "letters",
        "messages": [asked, {"role": "assistant", "content": words}],
    }  # fmt: skip


def test_sft_learns_from_the_replies_that_an_engine_gave_and_the_check_passed(
    tmp_path: Path,
) -> None:
    """Taught to say "yes" or "no" alike, a policy is left with "yes", where the check wants an "e"."""
    learnt = tmp_path / "learnt.jsonl"
    rows = [_says(words, n) for n in range(64) for words in ("yes", "no")]
    learnt.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"type": "jsonl", "path": str(learnt), "form": "conversation"}
    fast = {"lr": 1e-2, "row_tokens": 256, "rows_per_step": 4, "checkpoint_every_steps": 100}
    asked = tiny.grpo_stage(tmp_path)
    picked = {
        "kind": "rejection", "needs": ["sft"], "prompts": asked["prompts"],
        "num_prompts": NUM_PROMPTS, "samples": SAMPLES, "prompts_per_shard": 8, "max_tokens": 24,
        "thinking": False, "engine": asked["engine"],
    }  # fmt: skip
    kept = {"source": {"type": "shards", "stage": "picked", "form": "conversation"}}
    stages = {
        "tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage(),
        "sft": tiny.sft_stage(parts={"words": {"source": source, "samples": len(rows)}}, **fast),
        "picked": picked,
        "after": tiny.sft_stage(needs=["sft", "picked"], parts={"kept": kept | {"samples": 8}}, **fast),
    }  # fmt: skip
    recipe = tiny.write_recipe(
        tmp_path, stages, model=tiny.ENGINE_MODEL, cluster={"backend": "local"}
    )
    started = tiny.start("all", "--recipe", str(recipe), stdout=None, stderr=None)
    assert started.wait(timeout=tiny.PATIENCE_S) == 0
    run = tmp_path / "runs" / "tiny"
    made = tiny.manifest(run, "picked")["outputs"]["yield"]
    replies = made["replies"]
    assert replies.pop("replies") == sum(replies.values()) == NUM_PROMPTS * SAMPLES
    assert made["rows"] == replies["kept"] > 0 and replies["wrong"] > 0
    found = [
        row
        for path in sorted((run / "picked" / "shards").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(found) == made["rows"]
    for row in found:
        asked, said = row["messages"]
        assert asked["role"] == "user" and "e" in said["content"]
        assert (row["value"], row["tokens"] <= 24) == (1.0, True)
    after = tiny.manifest(run, "after")
    assert after["status"] == "done"
    assert after["outputs"]["data"]["samples"] == {"letters": 8}
