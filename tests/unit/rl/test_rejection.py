"""Rejection sampling: what is kept of a prompt's replies, each counted once, and what SFT reads of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from data_mix.config import ShardsSource
from data_mix.shards import Failed, Kept, Removed
from data_mix.supervised import take_conversations
from engine.protocol import Completion
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model, save_model
from rl.rejection import stage
from rl.rejection.config import RejectionConfig
from rl.rejection.stage import choose
from rl.sample import Rollout
from tests.unit.rl.test_distill import SMALL
from workbench.chat import stop_ids
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext

QUESTION = Conversation(
    "q", "sums", [{"role": "user", "content": "2+2?"}], check=CheckSpec("math", "4")
)


def config(**fields: Any) -> RejectionConfig:
    world = {"type": "world", "domain": "math", "split": "rl"}
    return RejectionConfig.read({"kind": "rejection", "prompts": world} | fields, where="x")


def reply(text: str, value: float | None, *, end: str = "stop", tokens: int = 3) -> Rollout:
    done: Any = Completion([5] * tokens, [], text, end)
    return Rollout([1], done, value, None, "ok" if value is not None else "gone")


GROUP = [
    reply("4 long", 1.0, tokens=9), reply("4", 1.0), reply("4", 1.0), reply("5", 0.0),
    reply("cut", 1.0, end="length"), reply("lost", None),
]  # fmt: skip


def test_each_reply_is_counted_once(tokenizer: PreTrainedTokenizerFast) -> None:
    kept, counts = choose(QUESTION, GROUP, config(), tokenizer)
    assert isinstance(kept, Kept)
    assert [row["messages"][-1]["content"] for row in kept.rows] == ["4", "4 long"]
    assert [row["id"] for row in kept.rows] == ["q#1", "q#2"]
    assert {k: v for k, v in counts.items()} == {
        "choose/replies": 6, "choose/kept": 2, "choose/same": 1, "choose/wrong": 1, "choose/cut": 1,
        "choose/undecided": 1,
    }  # fmt: skip
    assert sum(counts.values()) == 2 * counts["choose/replies"]
    best, counts = choose(QUESTION, GROUP, config(keep="best"), tokenizer)
    assert isinstance(best, Kept)
    (row,) = best.rows
    assert (row["messages"][-1]["content"], row["value"], row["tokens"]) == ("4", 1.0, 3)
    assert counts["choose/more"] == 1
    scored = [reply("a", 0.4), reply("b", 0.7), reply("c", 0.2)]
    (row,) = choose(QUESTION, scored, config(keep="best", least=0.3), tokenizer)[0].rows  # type: ignore[union-attr]
    assert row["value"] == 0.7


def test_a_prompt_without_a_right_reply_is_removed_and_a_lost_one_has_failed(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert choose(QUESTION, [reply("5", 0.0), reply("4", None)], config(), tokenizer)[0] == (
        Removed("choose", "none right")
    )
    cut = [reply("4", 1.0, end="length")]
    assert choose(QUESTION, cut, config(), tokenizer)[0] == Removed("choose", "all cut")
    assert choose(QUESTION, [reply("4", None)], config(), tokenizer)[0] == Failed("sample", "gone")


def context(folder: Path, tokenizer: Any, **fields: Any) -> StageContext:
    run = RunDir(folder / "run")
    if not run.stage("own").exists():
        save_model(load_model(build_config(**SMALL), seed=5), run.stage("own") / "model", tokenizer)
    rows = [
        {"id": f"q{n}", "domain": "sums", "messages": [{"role": "user", "content": f"{n} + 1 = ?"}],
         "check": {"kind": "math", "reference": str(n + 1)}}
        for n in range(6)
    ]  # fmt: skip
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "path": str(path), "form": "conversation"}
    blend = {"sources": {"m": {"type": "pretraining", "category": "math"}},
             "phases": [{"until": 1.0, "weights": {"m": 1}}]}  # fmt: skip
    picked = {
        "kind": "rejection", "needs": ["own"], "prompts": source, "num_prompts": 6, "samples": 4,
        "prompts_per_shard": 2, "max_tokens": 60, "engine": {"max_model_len": 400}, "seed": 3,
    } | fields  # fmt: skip
    recipe = build(
        {"name": "t", "stages": {"own": {"kind": "tokenizer", "blend": blend}, "picked": picked}}
    )
    run.stage("picked").mkdir(parents=True, exist_ok=True)
    return StageContext("picked", recipe.stages["picked"], recipe, run, {"own": run.stage("own")})


def test_sft_reads_the_right_replies_and_a_kill_costs_a_shard(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples 0 and 1 are right but for q5, which nobody can answer; the third shard is lost and made again."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = tokenizer.decode(prompt)
        number = int(text.rpartition("User\n")[2].split(" ")[0])
        answer = number + 1 if sample < 2 and number != 5 else 99
        words = f"so {sample}\n</think>\n\n\\boxed{{{answer}}}\n"
        return [*tokenizer.encode(words, add_special_tokens=False), *stop_ids(tokenizer)]

    engines = []

    def start(*args: Any, **more: Any) -> ScriptedEngine:
        engines.append(
            ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
        )
        return engines[-1]

    monkeypatch.setattr(stage, "start_engine", start)
    made = context(tmp_path, tokenizer)
    stage.run(made)
    assert made.outputs["yield"] == {
        "prompts": 6, "prompts_with_rows": 5, "rows": 10,
        "replies": {"kept": 10, "replies": 24, "wrong": 14},
        "prompts_without": {"choose: none right": 1},
    }  # fmt: skip
    source = ShardsSource(type="shards", stage=str(made.stage_dir), form="conversation")
    taken = take_conversations(source, 10, name="picked", seed=0)
    asked = {c.id: c for c in taken}
    one = asked["q3#1"]
    assert one.reply is not None
    assert one.reply["content"] == "\\boxed{4}" and one.reply["reasoning_content"] in (
        "so 0",
        "so 1",
    )
    assert (one.check, one.problem, one.thinking) == (CheckSpec("math", "4"), "q3", True)
    files = sorted(made.stage_dir.glob("shards/*.parquet"))
    before = [file.read_bytes() for file in files]
    files[2].with_suffix(".json").unlink()
    stage.run(context(tmp_path, tokenizer))
    assert [file.read_bytes() for file in files] == before
    assert engines[1].num_prompts == 2 * 4


def test_nothing_kept_is_said(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [*tokenizer.encode("</think>\n\n99\n", add_special_tokens=False), *stop_ids(tokenizer)]
    engine = ScriptedEngine(
        lambda prompt, sample: wrong, lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
    )
    monkeypatch.setattr(stage, "start_engine", lambda *a, **k: engine)
    with pytest.raises(
        UserError, match=r"no reply of 6 prompts is kept .*'wrong': 24.*easier prompts"
    ):
        stage.run(context(tmp_path, tokenizer))


def test_a_judge_has_something_to_compare() -> None:
    values: dict[str, Any] = {
        "kind": "rejection", "prompts": {"type": "world", "domain": "math"}, "samples": 1,
        "reward": {"kind": "judge", "judge": {"endpoint": "http://127.0.0.1:1/v1#j"}},
    }  # fmt: skip
    with pytest.raises(UserError, match="samples 1 with a judge"):
        RejectionConfig.read(values, where="picked")
    assert RejectionConfig.read(values | {"samples": 2}, where="picked").samples == 2
