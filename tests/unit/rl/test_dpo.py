"""DPO on episodes: the loss is on sampled tokens only, rows are isolated, and a resume is exact."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.protocol import Completion, Request
from engine.scripted import ScriptedEngine
from environments.house import tasks
from environments.rollout import Trajectory, Turn
from model.hybrid import build_config, load_model, save_model
from reward.verdict import decided, failed
from rl.dpo import stage as dpo_stage
from rl.dpo.config import DpoConfig
from rl.dpo.pairs import make_pairs, to_side
from rl.dpo.trainer import PairCollator, StrictDPOTrainer, trl_config
from rl.held_out import check_held_out
from workbench.chat import prompt_ids, stop_ids
from workbench.errors import UserError
from workbench.recipe import build
from workbench.rundir import Manifest, RunDir
from workbench.stage import StageContext
from workbench.statistics import paired_difference
from workbench.strict_trainer import last_checkpoint

SMALL: dict[str, Any] = {
    "pattern": "M-*M-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip
TASKS = tasks("rl", 4, 3, requests=(1, 1), offered=1)


def _episode(
    tokenizer: Any, place: int, texts: Sequence[str], value: float | None, *, forced: bool = False
) -> Trajectory:
    """An episode of these replies, each after a tool result."""
    task = TASKS[place]
    done = Trajectory(task, list(task.messages), task.tools)
    for text in texts:
        prompt = prompt_ids(done.messages, tools=done.tools, thinking=False, tokenizer=tokenizer)
        ids = [*tokenizer.encode(text, add_special_tokens=False), *stop_ids(tokenizer)]
        marks = [forced and i == 0 for i in range(len(ids))]
        done.turns.append(Turn(prompt, Completion(ids, [], text, "stop", marks)))
        done.messages += [{"role": "assistant", "content": text}, {"role": "tool", "content": "42"}]
    done.verdict = failed("x") if value is None else decided(value)
    return done


def _groups(tokenizer: Any) -> list[list[Trajectory]]:
    return [
        [
            _episode(tokenizer, i, [f"first {i}", "second one", "last"], 1.0),
            _episode(tokenizer, i, [f"wrong {i} at once"], 0.0),
            _episode(tokenizer, i, ["wrong", "again"], 0.0),
            _episode(tokenizer, i, ["broken"], None),
        ]
        for i in range(4)
    ]


def test_only_what_the_policy_sampled_carries_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    episode = _groups(tokenizer)[0][0]
    side = to_side(episode)
    assert len(side.input_ids) == len(side.mask) == len(side.seq_idx)
    trained = [i for i, m in zip(side.input_ids, side.mask, strict=True) if m]
    assert trained == [i for turn in episode.turns for i in turn.completion.token_ids]
    text = tokenizer.decode([i for i, m in zip(side.input_ids, side.mask, strict=True) if not m])
    # Two results were seen: one by the second reply, both by the third.
    assert text.count('<TOOL_RESPONSE>["42"]</TOOL_RESPONSE>') == 3
    assert "TOOL_RESPONSE" not in tokenizer.decode(trained)
    marked = to_side(_episode(tokenizer, 0, ["abc", "def"], 1.0, forced=True))
    assert sum(marked.mask) == sum(to_side(_episode(tokenizer, 0, ["abc", "def"], 1.0)).mask) - 2


def test_pairs_are_of_one_task_and_none_stands_twice(tokenizer: PreTrainedTokenizerFast) -> None:
    groups = [
        *_groups(tokenizer),
        [_episode(tokenizer, 0, ["a"], 1.0), _episode(tokenizer, 0, ["b"], 1.0)],
    ]
    pairs, account = make_pairs(groups, per_task=5, row_tokens=4096, seed=1)
    assert account.as_dict() == {
        "tasks": 5, "episodes": 18, "broken": 4, "successes": 6, "mixed_tasks": 4,
        "dropped_longer": 0, "pairs": 8, "success": 6 / 14,
    }  # fmt: skip
    keys = {json.dumps(p.to_row()) for p in pairs}
    assert len(keys) == 8
    for pair in pairs:  # the successes of these tasks alone have three replies
        assert (max(pair.chosen.seq_idx), max(pair.rejected.seq_idx) < 2) == (2, True)
    assert make_pairs(groups, per_task=5, row_tokens=4096, seed=1)[0] == pairs
    one, _ = make_pairs(groups, per_task=1, row_tokens=4096, seed=1)
    assert [p.task for p in one] == [t.id for t in TASKS]
    # The successes of the first four tasks are the longest: three replies.
    shortest = min(len(to_side(g[0]).input_ids) for g in groups[:4])
    short, account = make_pairs(groups, per_task=5, row_tokens=shortest - 1, seed=1)
    assert not short and account.dropped_longer == 4


def _config(**fields: Any) -> DpoConfig:
    house = {"type": "house", "requests": [1, 1], "offered": 1}
    values = {
        "kind": "dpo", "tasks": house, "held_out": house | {"split": "test"}, "lr": 1e-3,
        "pairs_per_step": 2, "microbatch_pairs": 2, "warmup_share": 0.0, "num_tasks": 6,
        "num_held_out": 4, "samples": 4, "max_turns": 3, "max_tokens": 200, "rounds": 2,
        "checkpoint_every_steps": 2, "engine": {"max_model_len": 2000},
    }  # fmt: skip
    return DpoConfig.read(values | fields, where="dpo")


def _trainer(
    model: Any, rows: list[dict[str, Any]], tokenizer: Any, folder: Path, **fields: Any
) -> StrictDPOTrainer:
    from datasets import Dataset

    return StrictDPOTrainer(
        model=model,
        args=trl_config(_config(**fields), folder, 1),
        data_collator=PairCollator(0),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def _rows(tokenizer: Any) -> list[dict[str, Any]]:
    pairs, _ = make_pairs(_groups(tokenizer), per_task=2, row_tokens=4096, seed=1)
    return [{k: v for k, v in p.to_row().items() if k != "task"} for p in pairs]


def _plain_logp(model: Any, episode: Trajectory) -> float:
    """The episode's log-probability by transformers alone, one reply at a time, nothing packed."""
    total = 0.0
    for turn in episode.turns:
        ids = torch.tensor([[*turn.prompt, *turn.completion.token_ids]])
        with torch.no_grad():
            logp = model(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        chosen = logp.gather(1, ids[0, 1:, None])[:, 0]
        total += float(chosen[len(turn.prompt) - 1 :].sum())
    return total


def test_reference_log_probabilities_are_those_of_the_replies_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Rows of different lengths, padded, three documents in one: equal to each reply by itself."""
    model = load_model(build_config(**SMALL), seed=5)
    save_model(model, tmp_path / "m", tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    groups = _groups(tokenizer)
    rows = _rows(tokenizer)
    trainer = _trainer(model, rows, tokenizer, tmp_path / "c")
    by_ids = {
        tuple(to_side(t).input_ids): _plain_logp(plain, t) for g in groups for t in g if t.turns
    }
    for row in trainer.train_dataset:
        for side in ("chosen", "rejected"):
            expected = by_ids[tuple(row[f"{side}_ids"])]
            assert row[f"ref_{side}_logps"] == pytest.approx(expected, rel=2e-6)
    assert expected < -10


def test_first_loss_is_log_2_and_training_prefers_the_better(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = load_model(build_config(**SMALL), seed=5)
    trainer = _trainer(model, _rows(tokenizer), tokenizer, tmp_path / "c", epochs=4)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # Policy and reference are equal before the first step: -log sigmoid(0).
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    margins = [x["rewards/margins"] for x in trainer.state.log_history if "rewards/margins" in x]
    assert losses[-1] < 0.5 and margins[-1] > margins[0] + 1


def test_a_resume_continues_to_the_bit(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    def weights(folder: str, steps: int, resume: bool = False) -> dict[str, torch.Tensor]:
        model = load_model(build_config(**SMALL), seed=5)
        rows = _rows(tokenizer)
        trainer = _trainer(model, rows, tokenizer, tmp_path / folder, trl={"max_steps": steps})
        trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path / folder) if resume else None)
        return {k: v.clone() for k, v in model.state_dict().items()}

    whole = weights("a", 4)
    half = weights("b", 2)
    rest = weights("b", 4, resume=True)
    assert all(torch.equal(whole[k], rest[k]) for k in whole)
    assert any(not torch.equal(whole[k], half[k]) for k in whole)
    state = Path(str(last_checkpoint(tmp_path / "b"))) / "anneal_model.pt"
    tensors = torch.load(state)
    tensors.pop(next(k for k in tensors if k.endswith("A_log")))
    torch.save(tensors, state)
    with pytest.raises(UserError, match="A_log"):
        weights("b", 6, resume=True)


def test_the_recipes_strength_reaches_the_loss(tmp_path: Path) -> None:
    assert [trl_config(_config(beta=b), tmp_path, 1).beta for b in (0.05, 0.3)] == [0.05, 0.3]


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="must be a multiple"):
        trl_config(_config(pairs_per_step=3), Path("x"), 1)
    with pytest.raises(UserError, match="TRL refuses .*no_such"):
        trl_config(_config(trl={"no_such": 1}), Path("x"), 1)
    assert trl_config(_config(trl={"loss_type": ["ipo"]}), Path("x"), 1).loss_type == ["ipo"]


def test_a_difference_is_paired_and_leaves_failures_out() -> None:
    found = paired_difference([0, 0, 1, None, 0], [1, 0, 1, 1, None])
    assert found.n == 3 and found.failed == 2
    assert found.difference.value == pytest.approx(1 / 3)
    # Two wordings of each of two problems, one of which is learnt: 0.5 of 2, not of 4 independent.
    same = paired_difference([0, 0, 0, 0], [1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (same.n, same.problems, same.difference.value) == (4, 2, 0.5)
    assert same.difference.stderr == pytest.approx(0.5) == same.after.stderr
    # Wilson's: three failures of three are not proof of a success rate of 0.
    assert paired_difference([0, 0, 0], [1, 1, 1]).before.ci95 == pytest.approx(
        [0, 0.5615], abs=1e-4
    )
    assert paired_difference([0, 0, 0], [1, 1, 1]).after.ci95 == pytest.approx(
        [0.4385, 1], abs=1e-4
    )


def _engine(tokenizer: Any) -> ScriptedEngine:
    """Even samples solve the task and stop; odd ones stop at once."""
    known = {
        t.messages[0]["content"]: t for n in (6, 4) for s in ("rl", "test") for t in _all(n, s)
    }

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = tokenizer.decode(prompt)
        task = next(t for words, t in known.items() if words in text)
        calls = json.dumps(task.data["calls"])
        solve = sample % 2 == 0 and "TOOL_RESPONSE" not in text
        reply = (
            f"ok\n</think>\n\n<TOOLCALL>{calls}</TOOLCALL>\n" if solve else "no\n</think>\n\nDone\n"
        )
        return [*tokenizer.encode(reply, add_special_tokens=False), *stop_ids(tokenizer)]

    return ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))


def _all(n: int, split: str) -> list[Any]:
    return tasks(split, n, 11, requests=(1, 1), offered=1)


def _context(tmp_path: Path, tokenizer: Any, **fields: Any) -> StageContext:
    run = RunDir(tmp_path / "run")
    source = run.stage("sft")
    if not source.exists():
        save_model(load_model(build_config(**SMALL), seed=5), source / "model", tokenizer)
    blend = {
        "sources": {"math": {"type": "pretraining", "category": "math"}},
        "phases": [{"until": 1.0, "weights": {"math": 1}}],
    }
    stages = {
        "sft": {"kind": "tokenizer", "blend": blend},
        "dpo": _config(**fields).model_dump(mode="json") | {"needs": ["sft"], "seed": 11},
    }
    recipe = build({"name": "t", "stages": stages})
    run.stage("dpo").mkdir(parents=True, exist_ok=True)
    return StageContext("dpo", recipe.stages["dpo"], recipe, run, {"sft": source})


def test_the_stage_plays_pairs_trains_and_repeats(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tokenizer)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    context = _context(tmp_path, tokenizer)
    dpo_stage.run(context)
    out = context.outputs
    # Six tasks, two of four episodes succeed each: four pairs a task, twelve steps a round.
    assert [r["pairs"] for r in out["rounds"]] == [24, 24]
    assert [r["success"] for r in out["rounds"]] == [0.5, 0.5]
    (found,) = out["differences"]
    assert found["difference"]["n"] == 4 and found["difference"]["value"] == 0
    assert engine.closed and engine.version == 2
    steps = [json.loads(x)["step"] for x in (context.stage_dir / "metrics.jsonl").open()]
    assert steps == list(range(1, 25))
    before = load_model(context.parent_model).state_dict()
    after = load_model(context.stage_dir / "model").state_dict()
    assert all(bool((after[k] != before[k]).any()) for k in before if "conv1d.bias" not in k)
    assert not list(context.stage_dir.glob("rounds/*/model"))
    rows = [json.loads(x) for x in (context.stage_dir / "rounds/0/episodes.jsonl").open()]
    assert len(rows) == 24 and {r["value"] for r in rows} == {0.0, 1.0}


def test_a_stop_between_continues_without_playing_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.errors import StopRequested

    engine = _engine(tokenizer)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    context = _context(tmp_path, tokenizer, rounds=1)
    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "should_stop", lambda self: True)
        with pytest.raises(StopRequested):
            dpo_stage.run(context)
    context.close()
    played = engine.num_prompts
    again = _context(tmp_path, tokenizer, rounds=1)  # as after kill -9: the outputs are lost
    dpo_stage.run(again)
    # Held-out tasks twice more (two replies where solved), but no round is played again.
    assert engine.num_prompts - played == 2 * 4 * 2
    assert again.outputs["rounds"][0]["pairs"] == 24


def test_nothing_to_learn_from_is_said(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tokenizer)
    plain = engine.script
    engine.script = lambda prompt, sample: plain(prompt, 1)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    with pytest.raises(UserError, match=r"no task has both .*0% of episodes succeed.*easier"):
        dpo_stage.run(_context(tmp_path, tokenizer))
    with pytest.raises(UserError, match="6 of 6 held-out tasks are also trained on"):
        check_held_out(_all(6, "rl"), _all(6, "rl"))


def test_broken_episodes_stop_the_run(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tokenizer)
    plain = engine.stream

    def stream(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for place, done in plain(requests):
            lost = place % 3 == 0
            yield place, replace(done, finish_reason="error", error="cuda gone") if lost else done

    engine.stream = stream  # type: ignore[method-assign]
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    with pytest.raises(RuntimeError, match=r"episodes broke \(cuda gone\); the limit"):
        dpo_stage.run(_context(tmp_path, tokenizer))


class _Killed(BaseException):
    """As kill -9: nothing of the stage's own code runs after it."""


def _begun(context: StageContext, outputs: dict[str, Any] | None = None) -> StageContext:
    """With a manifest on disk, as a stage that was started has; outputs as a later attempt has them."""
    if context.run.manifest("dpo") is None:
        context.run.write_manifest(Manifest("dpo", "dpo", "running", {}, "", 11))
    context.outputs = outputs or {}
    return context


def _on_disk(context: StageContext) -> dict[str, Any]:
    manifest = context.run.manifest("dpo")
    assert manifest is not None
    return manifest.outputs


@pytest.mark.parametrize("at", ["playing", "training"])
def test_a_kill_in_the_second_round_keeps_the_account_of_the_first(
    at: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tokenizer)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    context = _begun(_context(tmp_path, tokenizer))
    real = dpo_stage._train

    def train(context: StageContext, *args: Any) -> Any:
        if args[-1] == 1:
            raise _Killed
        return real(context, *args)

    def load(folder: str, *, version: int) -> None:
        engine.version = version
        if version == 1:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(dpo_stage, "_train", train) if at == "training" else patch.setattr(
            engine, "load_checkpoint", load
        )
        with pytest.raises(_Killed):
            dpo_stage.run(context)
    context.close()
    kept = _on_disk(context)
    assert [r["pairs"] for r in kept["rounds"]] == [24] * (2 if at == "training" else 1)
    assert len(kept["held_out_before"]) == 4
    played = engine.num_prompts
    again = _begun(_context(tmp_path, tokenizer), kept)
    dpo_stage.run(again)
    assert [r["pairs"] for r in again.outputs["rounds"]] == [24, 24]
    # The held-out tasks once more, after; the second round only where it had not been played.
    assert engine.num_prompts - played == 4 * 2 + (0 if at == "training" else 6 * (2 + 2 * 2))
    steps = [json.loads(x)["step"] for x in (again.stage_dir / "metrics.jsonl").open()]
    assert steps == list(range(1, 25))
    # What is only needed to continue goes with checkpoints/, and holds no pickle of ours.
    assert {p.name for p in (again.stage_dir / "rounds/0").iterdir()} == {
        "account.json", "episodes.jsonl", "steps.json"
    }  # fmt: skip


def test_a_later_round_without_pairs_is_found_again_after_a_kill(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tokenizer)
    plain = engine.script
    engine.script = lambda prompt, sample: plain(prompt, 1 if engine.version == 1 else sample)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    context = _begun(_context(tmp_path, tokenizer))
    dpo_stage.run(context)
    for outputs in (_on_disk(context), {}):  # {}: as a version that noted nothing left it
        again = _begun(_context(tmp_path, tokenizer), dict(outputs))
        dpo_stage.run(again)
        assert [r["pairs"] for r in again.outputs["rounds"]] == [24, 0]
        assert len(again.outputs["warnings"]) == 1
        assert "round 2: no task has both" in again.outputs["warnings"][0]
