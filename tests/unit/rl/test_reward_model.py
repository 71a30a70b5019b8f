"""The reward model: scores that do not depend on padding or batch, plain files, a resume that is exact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from model.hybrid import build_config, load_model
from reward import sandbox
from reward.score_model import (
    ScoreModel,
    load_score_model,
    save_score_model,
    score_ids,
    score_rows,
)
from rl.reward_model import stage
from rl.reward_model.config import RewardModelConfig
from rl.reward_model.pairs import ScoredReply, make_pairs
from rl.reward_model.stage import (
    ScoreCollator,
    StrictRewardTrainer,
    pair_accuracy,
    pair_values,
    trl_config,
)
from workbench.errors import UserError
from workbench.strict_trainer import last_checkpoint

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip


def _model(seed: int = 5) -> ScoreModel:
    torch.manual_seed(seed)
    return ScoreModel(load_model(build_config(**SMALL), seed=seed)).eval()


def _row(n: int, good: bool) -> list[int]:
    """A conversation of n tokens; token 300 somewhere makes it a good one."""
    row = [20 + (7 * i + n) % 200 for i in range(n)]
    row[n // 2] = 300 if good else 301
    return row


def test_scores_do_not_depend_on_padding_or_batch() -> None:
    model, rows = _model(), [_row(n, bool(n % 2)) for n in (9, 30, 4, 17, 60, 1)]
    together = score_rows(model, rows, pad_token_id=0)
    alone = [score_rows(model, [row], pad_token_id=7)[0] for row in rows]
    assert together == pytest.approx(alone, abs=1e-5)
    # By hand: the last hidden state times the head.
    with torch.no_grad():
        hidden = model.causal.base_model(torch.tensor([rows[1]]), use_cache=False).last_hidden_state
    assert together[1] == pytest.approx(float(hidden[0, -1] @ model.head.weight[0]), abs=1e-5)


def test_saves_and_loads_plainly(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model, rows = _model(), [_row(n, True) for n in (9, 30)]
    save_score_model(model, tmp_path / "model", tokenizer)
    again = load_score_model(tmp_path / "model")
    assert score_rows(again, rows, pad_token_id=0) == score_rows(model, rows, pad_token_id=0)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    name = "lm_head.weight"
    assert torch.equal(plain.state_dict()[name], model.causal.state_dict()[name])
    (tmp_path / "model" / "reward_head.safetensors").unlink()
    with pytest.raises(UserError, match="is not a reward model"):
        load_score_model(tmp_path / "model")


def test_the_trace_is_not_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = [{"role": "user", "content": "Hi"}]

    def ids(text: str, thinking: bool) -> list[int]:
        return score_ids(prompt, text, thinking=thinking, tools=None, tokenizer=tokenizer)

    with_trace = ids("a long trace\n</think>\n\nHello\n", True)
    assert with_trace == ids("Hello\n", False) == ids("another\n</think>\n\nHello\n", True)
    assert "trace" not in tokenizer.decode(with_trace)
    assert ids("never closed, Hello", True) == ids("", False) != with_trace


def test_pairs_are_of_one_prompt_and_different_values() -> None:
    replies = [
        ScoredReply("a", [1, 2], 1.0, "ok"), ScoredReply("a", [1, 2], 1.0, "ok"), ScoredReply("a", [1, 3], 0.0, "ok"),
        ScoredReply("a", [1, 4], 0.5, "ok"), ScoredReply("a", [9] * 99, 0.0, "ok"), ScoredReply("a", [], None, "timeout"),
        ScoredReply("b", [5], 1.0, "ok"), ScoredReply("c", [6], 0.0, "ok"),
    ]  # fmt: skip
    rows, account = make_pairs(replies, per_prompt=9, row_tokens=50, seed=1)
    found = {(r["prompt"], tuple(r["chosen_ids"]), tuple(r["rejected_ids"])) for r in rows}
    assert found == {
        ("a", (1, 2), (1, 3)), ("a", (1, 2), (1, 4)), ("a", (1, 4), (1, 3)),
    }  # fmt: skip
    assert account["undecided"] == 1 and account["longer"] == 1 and account["pairs"] == 3
    assert account["mean_value"] == pytest.approx(3.5 / 7)
    assert len(make_pairs(replies, per_prompt=2, row_tokens=50, seed=1)[0]) == 2


def _config(**fields: Any) -> RewardModelConfig:
    world = {"type": "world", "domain": "math"}
    values = {
        "kind": "reward_model", "prompts": world, "held_out": world, "lr": 3e-3,
        "pairs_per_step": 8, "microbatch_pairs": 4, "warmup_share": 0.0, "epochs": 1,
        "checkpoint_every_steps": 2,
    }  # fmt: skip
    return RewardModelConfig.read(values | fields, where="rm")


def _rows(count: int, shift: int) -> list[dict[str, Any]]:
    return [
        {"prompt": str(i), "chosen_ids": _row(8 + (i + shift) % 20, True),
         "rejected_ids": _row(8 + (3 * i + shift) % 20, False)}
        for i in range(count)
    ]  # fmt: skip


def _train(
    model: ScoreModel, tokenizer: Any, folder: Path, resume: bool = False, **fields: Any
) -> Any:
    from datasets import Dataset

    rows = [{k: v for k, v in r.items() if k != "prompt"} for r in _rows(48, 0)]
    trainer = StrictRewardTrainer(
        model=model, args=trl_config(_config(**fields), folder, 1), data_collator=ScoreCollator(0),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)
    return trainer


def test_learns_which_is_better(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model, held_out = _model(), _rows(40, 5)
    before = pair_values(model, held_out, tokenizer)
    trainer = _train(model, tokenizer, tmp_path / "c", epochs=3)
    first = next(x["loss"] for x in trainer.state.log_history if "loss" in x)
    assert 0.3 < first < 1.5  # near log 2: an untrained head cannot tell
    after = pair_values(model.eval(), held_out, tokenizer)
    found = pair_accuracy(held_out, before, after)
    untrained, trained, gain = found.before, found.after, found.difference
    assert trained.value > 0.9 > untrained.value and trained.n == 40
    assert untrained.value == pytest.approx(sum(before) / 40)
    assert gain.value == pytest.approx(trained.value - untrained.value)
    assert gain.low < gain.value < gain.high
    flipped = [
        r | {"chosen_ids": r["rejected_ids"], "rejected_ids": r["chosen_ids"]} for r in held_out
    ]
    assert pair_values(model, flipped, tokenizer) == pytest.approx([1 - v for v in after])


def test_no_change_in_ten_pairs_is_no_proof_of_a_gain() -> None:
    """One pair a prompt: differences are not shares, whose interval would begin at 0."""
    rows = [{"prompt": str(i)} for i in range(10)]
    gain = pair_accuracy(rows, [1.0] * 10, [1.0] * 10).difference
    low, high = gain.ci95
    assert gain.value == 0 and low == pytest.approx(-high) and high > 0.05
    # Two pairs a prompt: 4 prompts of 8 pairs, one of which gains both: clustered.
    rows = [{"prompt": str(i // 2)} for i in range(8)]
    gain = pair_accuracy(rows, [0.0] * 8, [1.0, 1.0] + [0.0] * 6).difference
    assert gain.value == 0.25 and gain.stderr == pytest.approx(0.25)


def test_a_resume_is_exact(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    whole, half, rest = _model(), _model(), _model()
    _train(whole, tokenizer, tmp_path / "a", trl={"max_steps": 4})
    _train(half, tokenizer, tmp_path / "b", trl={"max_steps": 2})
    _train(rest, tokenizer, tmp_path / "b", resume=True, trl={"max_steps": 4})
    one, two = whole.state_dict(), rest.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(half.head.weight, rest.head.weight)


def test_prompts_that_need_a_sandbox_are_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"safe": False, "layers": [], "problem": "no safe sandbox: no kernel"}
    monkeypatch.setattr(sandbox, "describe_sandbox", lambda: refused)
    monkeypatch.setattr(stage, "prompt_ids", lambda *args, **options: [1])
    coding = {"type": "world", "domain": "coding"}
    context: Any = SimpleNamespace(
        config=_config(prompts=coding, num_prompts=2, num_held_out=2), stage_dir=tmp_path, seed=1
    )
    with pytest.raises(UserError, match="programs cannot be checked on this machine"):
        stage._data(context, None)
