"""Given preferences: TRL's losses against hand-written ones, masks as SFT's, strict resume, bad rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from data_mix.documents import document_of
from data_mix.preferences import Labelled, Preference
from model.hybrid import build_config, load_model, save_model
from reward.score_model import ScoreModel, collate, score_ids
from rl.dpo.trainer import PairCollator, StrictDPOTrainer
from rl.inputs import check_reward_model
from rl.preference import stage
from rl.preference.config import KtoConfig, OfflineDpoConfig
from rl.preference.rows import check_given, labelled_rows, pair_rows
from rl.preference.stage import (
    StrictKTOTrainer,
    differences,
    dpo_arguments,
    held_out_logps,
    kto_arguments,
)
from rl.reward_model.config import RewardModelConfig
from rl.reward_model.given import given_data
from rl.reward_model.stage import ScoreCollator, StrictRewardTrainer
from rl.reward_model.stage import trl_config as reward_arguments
from sft.examples import to_examples
from workbench.errors import StopRequested, UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip
BETA = 0.3
PAIRS = [
    {"prompt": f"{n} + 1 = ?", "chosen": f"It is {n + 1}", "rejected": "No idea at all" if n % 2 else "?"}
    for n in range(12)
]  # fmt: skip
REPLIES = [
    {"prompt": p["prompt"], "completion": p["chosen" if n % 3 else "rejected"], "label": n % 3 > 0}
    for n, p in enumerate(PAIRS)
]


def written(folder: Path, name: str, rows: list[Any], **more: Any) -> dict[str, Any]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "jsonl", "path": str(path), **more}


def values(folder: Path, kind: str, **fields: Any) -> dict[str, Any]:
    form = "pairs" if kind == "offline_dpo" else "labelled"
    rows = PAIRS if kind == "offline_dpo" else REPLIES
    return {
        "kind": kind, "samples": 8, "num_held_out": 4, "beta": BETA, "lr": 1e-3, "warmup_share": 0.0,
        "source": written(folder, "train", rows[:8], form=form),
        "held_out": written(folder, "held", rows[8:], form=form),
        "pairs_per_step": 4, "microbatch_pairs": 4, "checkpoint_every_steps": 3, "epochs": 2,
    } | fields  # fmt: skip


def dpo(folder: Path, **fields: Any) -> OfflineDpoConfig:
    return OfflineDpoConfig.read(values(folder, "offline_dpo", **fields), where="x")


def kto(folder: Path, **fields: Any) -> KtoConfig:
    return KtoConfig.read(values(folder, "kto", **fields), where="x")


def given(config: Any, rows: list[dict[str, Any]]) -> list[Any]:
    return [document_of(row, config.source, where=f"line {n}") for n, row in enumerate(rows)]


def small(seed: int) -> Any:
    return load_model(build_config(**SMALL), seed=seed)


def test_only_the_reply_carries_loss_and_stands_as_in_sft(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (pair,) = given(dpo(tmp_path), PAIRS[:1])
    assert isinstance(pair, Preference)
    ((row,), longer) = pair_rows([pair], tokenizer, thinking=True, row_tokens=400)
    (taught,) = to_examples([pair.chosen], tokenizer)
    assert row["chosen_ids"] == taught.input_ids and longer == 0
    assert [
        i if m else -100 for i, m in zip(row["chosen_ids"], row["chosen_mask"], strict=True)
    ] == (taught.labels)
    ((off,), _) = pair_rows([pair], tokenizer, thinking=False, row_tokens=400)
    text = tokenizer.decode(
        [i for i, m in zip(off["rejected_ids"], off["rejected_mask"], strict=True) if m]
    )
    assert text.startswith("?\n") and "think" not in text
    assert pair_rows([pair], tokenizer, thinking=True, row_tokens=len(row["chosen_ids"]) - 1) == (
        [],
        1,
    )
    (reply,) = given(kto(tmp_path), REPLIES[:1])
    assert isinstance(reply, Labelled)
    ((labelled,), _) = labelled_rows([reply], tokenizer, thinking=False, row_tokens=400)
    # TRL takes no mask: what follows the end of the turn is left away.
    whole = [*labelled["prompt_ids"], *labelled["completion_ids"]]
    assert whole == off["rejected_ids"][: len(whole)]
    assert labelled["completion_ids"] == [
        i for i, m in zip(off["rejected_ids"], off["rejected_mask"], strict=True) if m
    ]


def alone(model: Any, ids: list[int], mask: list[int]) -> float:
    """The marked tokens' log-probability, of one row by itself, in float64."""
    with torch.no_grad():
        logp = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double().log_softmax(-1)
    chosen = logp.gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return float((chosen * torch.tensor(mask)[1:]).sum())


def test_held_out_log_probabilities_are_those_of_transformers(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = small(5)
    save_model(model, tmp_path / "m", tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    rows, _ = pair_rows(given(dpo(tmp_path), PAIRS), tokenizer, thinking=False, row_tokens=400)
    found = held_out_logps(model.train(), rows)
    assert found.keys() == {"chosen", "rejected"} and model.training
    for side, values in found.items():
        wanted = [alone(plain, r[f"{side}_ids"], r[f"{side}_mask"]) for r in rows]
        assert values == pytest.approx(wanted, rel=2e-6)
    replies, _ = labelled_rows(
        given(kto(tmp_path), REPLIES), tokenizer, thinking=False, row_tokens=400
    )
    (said,) = held_out_logps(model, replies).values()
    wanted = []
    for row in replies:
        asked, reply = row["prompt_ids"], row["completion_ids"]
        wanted.append(alone(plain, [*asked, *reply], [0] * len(asked) + [1] * len(reply)))
    assert said == pytest.approx(wanted, rel=2e-6)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# chosen and rejected log-ratio, and their lengths -> the loss, written from the papers.
BY_HAND = {
    "sigmoid": lambda c, r, n, m: -log_sigmoid(BETA * (c - r)),
    "hinge": lambda c, r, n, m: max(0.0, 1 - BETA * (c - r)),
    "ipo": lambda c, r, n, m: (c / n - r / m - 1 / (2 * BETA)) ** 2,
    "robust": lambda c, r, n, m: (-0.9 * log_sigmoid(BETA * (c - r)) + 0.1 * log_sigmoid(BETA * (r - c))) / 0.8,
    "apo_zero": lambda c, r, n, m: 1 - sigmoid(BETA * c) + sigmoid(BETA * r),
}  # fmt: skip


@pytest.mark.parametrize("loss", BY_HAND)
def test_losses_on_pairs_are_the_papers(
    loss: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    smoothing = 0.1 if loss == "robust" else 0.0
    config = dpo(tmp_path, loss=loss, label_smoothing=smoothing)
    rows, _ = pair_rows(given(config, PAIRS[:4]), tokenizer, thinking=False, row_tokens=400)
    reference, policy = small(5), small(6)
    model = small(5)
    trainer = StrictDPOTrainer(
        model=model,
        args=dpo_arguments(config, tmp_path / "c", 1),
        data_collator=PairCollator(0),
        train_dataset=Dataset.from_list(
            [{k: v for k, v in r.items() if k != "prompt"} for r in rows]
        ),
        processing_class=tokenizer,
    )
    model.load_state_dict(policy.state_dict())
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = float(trainer.compute_loss(model, batch).detach())
    expected = []
    for row in rows:
        ratios, sizes = [], []
        for side in ("chosen", "rejected"):
            of = row[f"{side}_ids"], row[f"{side}_mask"]
            ratios.append(alone(policy, *of) - alone(reference, *of))
            sizes.append(sum(of[1]))
        expected.append(BY_HAND[loss](*ratios, *sizes))
    assert found == pytest.approx(sum(expected) / 4, rel=1e-4)
    assert len({round(e, 6) for e in expected}) == 4


def test_ktos_loss_is_the_papers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Equation 7: the zero is the mean drift on each prompt with the reply of the one before it."""
    config = kto(tmp_path, good_weight=2.0)
    rows, _ = labelled_rows(given(config, REPLIES[:4]), tokenizer, thinking=False, row_tokens=400)
    reference, policy, model = small(5), small(5), small(5)
    prompts, replies = [r["prompt_ids"] for r in rows], [r["completion_ids"] for r in rows]
    # A policy that knows which reply is whose: else the zero is cut off at 0, or any reply's drift is alike.
    learner = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(40):
        for prompt, reply in zip(prompts, replies, strict=True):
            labels = torch.tensor([[-100] * len(prompt) + reply])
            policy(input_ids=torch.tensor([[*prompt, *reply]]), labels=labels).loss.backward()
        learner.step()
        learner.zero_grad()
    trainer = StrictKTOTrainer(
        model=model,
        args=kto_arguments(config, tmp_path / "c", 1),
        train_dataset=Dataset.from_list(
            [{k: v for k, v in r.items() if k != "prompt"} for r in rows]
        ),
        processing_class=tokenizer,
    )
    model.load_state_dict(policy.state_dict())
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = float(trainer.compute_loss(model, batch).detach())

    def drift(prompt: list[int], reply: list[int]) -> float:
        row = [*prompt, *reply], [0] * len(prompt) + [1] * len(reply)
        return alone(policy, *row) - alone(reference, *row)

    zero, of_own = (
        sum(drift(p, replies[n - shift]) for n, p in enumerate(prompts)) / 4 for shift in (1, 0)
    )
    assert zero > 0 and abs(of_own - zero) > 0.02
    expected = []
    for row in rows:
        ratio = drift(row["prompt_ids"], row["completion_ids"])
        loss = (
            1 - sigmoid(BETA * (ratio - zero))
            if row["label"]
            else 1 - sigmoid(BETA * (zero - ratio))
        )
        expected.append(loss * (2.0 if row["label"] else 1.0))
    assert [row["label"] for row in rows] == [False, True, True, False]
    assert found == pytest.approx(sum(expected) / 4, rel=1e-4)


def test_a_reward_model_on_given_pairs_learns_their_margins(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Loss: -log sigmoid(better - worse - margin); the rows are what the model will score."""
    rows = [
        {"prompt": p["prompt"], "response_1": p["rejected"], "response_2": p["chosen"], "strength": 1 + n % 3}
        for n, p in enumerate(PAIRS)
    ]  # fmt: skip
    columns = {"chosen": "response_1", "rejected": "response_2", "preference": "strength"}
    config = RewardModelConfig.read(
        {
            "kind": "reward_model", "margin_weight": 0.5, "num_prompts": 8, "num_held_out": 4,
            "prompts": written(tmp_path, "train", rows[:8], columns=columns),
            "held_out": written(tmp_path, "held", rows[8:], columns=columns),
            "pairs_per_step": 4, "microbatch_pairs": 4,
        },
        where="x",
    )  # fmt: skip
    assert config.given and check_reward_model(config)[0] == "prompts: 8 of 8 rows looked at"
    data = given_data(config, tokenizer, 1)
    first = data["train"]["rows"][0]
    assert data["train"]["account"]["pairs"] == 8 and first["margin"] in (0.5, 1.0, 1.5)
    pair = next(p for p in PAIRS if repr(p["prompt"]) in first["prompt"])
    asked = [{"role": "user", "content": pair["prompt"]}]
    assert first["chosen_ids"] == score_ids(
        asked, pair["chosen"], thinking=False, tools=None, tokenizer=tokenizer
    )
    model = ScoreModel(small(5))
    trainer = StrictRewardTrainer(
        model=model,
        args=reward_arguments(config, tmp_path / "c", 1),
        data_collator=ScoreCollator(0),
        train_dataset=Dataset.from_list(data["train"]["rows"]),
        processing_class=tokenizer,
    )
    part = data["train"]["rows"][:4]
    better, worse = (
        [model(**collate([row[f"{side}_ids"]], 0)).logits.item() for row in part]
        for side in ("chosen", "rejected")
    )
    margins = [row["margin"] for row in part]
    expected = [-log_sigmoid(b - w - m) for b, w, m in zip(better, worse, margins, strict=True)]
    found = float(trainer.compute_loss(model, ScoreCollator(0)(part)).detach())
    assert found == pytest.approx(sum(expected) / 4, rel=1e-5)
    with pytest.raises(UserError, match="held_out is sampled, and prompts are given pairs"):
        RewardModelConfig.read(
            config.model_dump() | {"held_out": {"type": "world", "domain": "math"}}, where="x"
        )


def context(folder: Path, tokenizer: Any, kind: str, **fields: Any) -> StageContext:
    run = RunDir(folder / "run")
    source = run.stage("sft")
    if not source.exists():
        save_model(small(5), source / "model", tokenizer)
    blend = {"sources": {"m": {"type": "pretraining", "category": "math"}},
             "phases": [{"until": 1.0, "weights": {"m": 1}}]}  # fmt: skip
    own = values(folder, kind, **fields) | {"needs": ["sft"], "seed": 11}
    recipe = build(
        {"name": "t", "stages": {"sft": {"kind": "tokenizer", "blend": blend}, "own": own}}
    )
    run.stage("own").mkdir(parents=True, exist_ok=True)
    return StageContext("own", recipe.stages["own"], recipe, run, {"sft": source})


@pytest.mark.parametrize("kind", ["offline_dpo", "kto"])
def test_a_stage_learns_and_continues_to_the_bit(
    kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = context(tmp_path / "a", tokenizer, kind, epochs=3, lr=5e-3)
    stage.run(whole)
    first = whole.outputs["differences"][0]
    assert first["before"]["value"] == 0.5 and first["after"]["value"] == 1.0
    assert whole.outputs["rows"]["source"]["used"] == 8
    lines = [json.loads(x) for x in (whole.stage_dir / "metrics.jsonl").open()]
    assert [x["step"] for x in lines] == list(range(1, 7))
    assert lines[0]["loss"] == pytest.approx(
        math.log(2) if kind == "offline_dpo" else 0.5, abs=1e-4
    )
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]

    broken = context(tmp_path / "b", tokenizer, kind, epochs=3, lr=5e-3)
    stopped = iter([False] * 3 + [True] * 100)
    with monkeypatch.context() as patch, pytest.raises(StopRequested):
        patch.setattr(StageContext, "should_stop", lambda self: next(stopped))
        stage.run(broken)
    broken.close()
    again = context(tmp_path / "b", tokenizer, kind, epochs=3, lr=5e-3)
    stage.run(again)
    one, two = (load_model(c.stage_dir / "model").state_dict() for c in (whole, again))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert again.outputs["differences"] == whole.outputs["differences"]


def test_bad_pairs_are_named_or_left_out(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bad = [*PAIRS[:2], PAIRS[2] | {"rejected": PAIRS[2]["chosen"]}, PAIRS[3] | {"chosen": ""}]
    source = written(tmp_path, "bad", bad, form="pairs")
    fields: dict[str, Any] = {"source": source, "samples": 4}
    with pytest.raises(
        UserError, match=r"source: .*bad.jsonl, line 3.*are the same; 1 more are bad"
    ):
        check_given(dpo(tmp_path, **fields))
    (line, _) = check_given(dpo(tmp_path, **fields, skip_bad=True))
    assert line == "source: 4 of 4 rows looked at; skip_bad leaves out 2 (preference 2)"
    lenient = context(
        tmp_path,
        tokenizer,
        "offline_dpo",
        **fields,
        skip_bad=True,
        pairs_per_step=2,
        microbatch_pairs=2,
    )
    stage.run(lenient)
    account = lenient.outputs["rows"]["source"]
    assert (account["kept"], account["left_out"], account["used"]) == (2, {"preference": 2}, 2)
    both = context(tmp_path, tokenizer, "offline_dpo", held_out=written(tmp_path, "same", PAIRS[:4], form="pairs"),
                   source=written(tmp_path, "train", PAIRS[:8], form="pairs"))  # fmt: skip
    with pytest.raises(UserError, match="4 of 4 held-out prompts are also trained on"):
        stage.run(both)


def test_forms_and_options_are_checked_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="source is of form 'labelled'; this stage reads form: pairs"
    ):
        dpo(tmp_path, source=written(tmp_path, "x", REPLIES, form="labelled"))
    with pytest.raises(UserError, match="microbatch_pairs 1: the loss kto pairs each prompt"):
        kto(tmp_path, microbatch_pairs=1)
    with pytest.raises(UserError, match="loss: unknown loss 'sigmod'; did you mean 'sigmoid'"):
        dpo(tmp_path, loss=["sft", "sigmod"])
    assert dpo_arguments(dpo(tmp_path, loss=["sigmoid", "sft"]), tmp_path, 1).loss_type == [
        "sigmoid",
        "sft",
    ]


def test_the_measures_by_hand() -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    before = {"chosen": [-2.0, -1.0], "rejected": [-1.0, -3.0]}
    after = {"chosen": [-1.5, -2.0], "rejected": [-1.0, -3.0]}
    apart, likelier = differences(rows, before, after)
    # The first pair's gap went from -1 to -0.5, the second's from 2 to 1; the order stayed.
    assert (apart.before.value, apart.after.value) == (0.5, 0.5)
    assert (likelier.before.value, likelier.after.value) == (0.5, 0.5)
    labelled = [{"prompt": "a", "label": True}, {"prompt": "b", "label": False}]
    (moved,) = differences(labelled, {"reply": [-2.0, -2.0]}, {"reply": [-1.0, -3.0]})
    assert moved.after.value == 1.0
