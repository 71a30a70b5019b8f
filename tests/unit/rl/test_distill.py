"""On-policy distillation: the exact reverse KL, only on what the student chose, and a loop that goes on."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from engine.protocol import Completion
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model, save_model
from rl.distill import stage
from rl.distill.config import OnPolicyDistillConfig
from rl.distill.update import DistillUpdater, reverse_kl
from rl.sample import Rollout
from workbench.chat import stop_ids
from workbench.errors import StopRequested, UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip


def small(seed: int) -> Any:
    return load_model(build_config(**SMALL), seed=seed)


def test_the_kl_is_torchs_and_trls() -> None:
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(1)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    found = reverse_kl(student, teacher)
    # torch's kl_div(input, target) is KL(target || input).
    expected = functional.kl_div(
        teacher.log_softmax(-1), student.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    # GKD with beta 1 is the reverse KL.
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=1.0, reduction="batchmean"
    )
    assert float(found.sum()) == pytest.approx(
        float(theirs) * 5
        if float(theirs) * 5 == pytest.approx(float(found.sum()), rel=1e-3)
        else float(theirs),
        rel=1e-3,
    )
    half = reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]]))
    # 1/2 log(1/2 / 3/4) + 1/2 log(1/2 / 1/4)
    assert float(half) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def rollout(
    prompt: list[int], reply: list[int], forced: list[bool], engine: list[float]
) -> Rollout:
    done = Completion(reply, engine, "", "stop", forced, [0] * len(reply))
    return Rollout(prompt, done, 1.0, 1.0, "ok")


def logps(model: Any, ids: list[int]) -> torch.Tensor:
    """Of every next token, of one row by itself [T - 1, V]."""
    found: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
    return found


def test_the_update_is_the_gradient_of_the_kl_at_chosen_tokens_alone() -> None:
    """Two replies in one packed row, one with a forced token; against each reply by itself."""
    student, teacher = small(5), small(6)
    made = [([5, 6, 7], [9, 8, 11], [False, True, False]), ([12, 13], [14, 15], [False, False])]
    rollouts, kls = [], []
    for prompt, reply, forced in made:
        ids = [*prompt, *reply]
        own, goal = logps(student, ids), logps(teacher, ids).detach()
        kl = (own.exp() * (own - goal)).sum(-1)[len(prompt) - 1 :]
        kls.append(kl[torch.tensor([not f for f in forced])])
        engine = own[len(prompt) - 1 :].gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()
        rollouts.append(rollout(prompt, reply, forced, engine))
    expected = torch.cat(kls).mean()
    student.zero_grad()
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    updater = DistillUpdater(student, teacher, lr=0.0, grad_clip=1e9)
    seen: dict[str, torch.Tensor] = {}
    plain = updater.optimizer.step

    def step() -> Any:
        seen.update(
            {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
        )
        return plain()

    updater.optimizer.step = step  # type: ignore[method-assign,assignment]
    metrics = updater.update(rollouts, row_tokens=64, mismatch_limit=1e-6)
    assert metrics["teacher_kl"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert set(seen) == set(wanted)
    for name, gradient in wanted.items():
        assert torch.allclose(seen[name], gradient, atol=2e-6), name
    assert updater.measure(rollouts, row_tokens=64) == pytest.approx(
        [float(kl.detach().mean()) for kl in kls], rel=1e-5
    )
    wrong = [rollout(*made[0], [-9.0, -9.0, -9.0])]
    with pytest.raises(RuntimeError, match="student and engine disagree: mean KL"):
        updater.update(wrong, row_tokens=64, mismatch_limit=0.01)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_student_nears_its_teacher(temperature: float) -> None:
    """The engine's log-probabilities are those of the sampling, at whatever temperature."""
    student, teacher = small(5), small(6)
    updater = DistillUpdater(student, teacher, lr=3e-3, grad_clip=1.0, temperature=temperature)
    found = []
    for _ in range(12):
        with torch.no_grad():
            asked = [logps(student, [5, 6, 7, t])[2] / temperature for t in (8, 9)]
            engine = [float(a.log_softmax(-1)[t]) for a, t in zip(asked, (8, 9), strict=True)]
        replies = [
            rollout([5, 6, 7], [t], [False], [e]) for t, e in zip((8, 9), engine, strict=True)
        ]
        found.append(updater.update(replies, row_tokens=64, mismatch_limit=0.01)["teacher_kl"])
    assert found[-1] < 0.1 * found[0]


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    student, teacher = small(5), small(6)
    updater = DistillUpdater(student, teacher, lr=1e-3, grad_clip=1.0)
    reply = rollout([5, 6, 7], [8], [False], [float(logps(student, [5, 6, 7, 8])[2, 8])])
    student.lm_head.weight.register_hook(lambda grad: grad * float("nan"))
    before = {name: t.clone() for name, t in student.state_dict().items()}
    with pytest.raises(FloatingPointError, match="gradient norm nan is not finite; lower lr"):
        updater.update([reply], row_tokens=64, mismatch_limit=0.01)
    assert all(torch.equal(before[name], t) for name, t in student.state_dict().items())


def values(**fields: Any) -> dict[str, Any]:
    world = {"type": "world", "domain": "math"}
    return {
        "kind": "distill_on_policy", "needs": ["own", "other"], "teacher": "other", "num_prompts": 8,
        "prompts": world | {"split": "rl"}, "held_out": world | {"split": "test"}, "num_held_out": 4,
        "num_steps": 4, "prompts_per_step": 4, "max_tokens": 40, "checkpoint_every_steps": 2,
        "mismatch_kl_limit": 1e9, "engine": {"max_model_len": 400}, "seed": 3,
    } | fields  # fmt: skip


def context(folder: Path, tokenizer: Any, **fields: Any) -> StageContext:
    run = RunDir(folder / "run")
    for name, seed in (("own", 5), ("other", 6)):
        if not run.stage(name).exists():
            save_model(small(seed), run.stage(name) / "model", tokenizer)
    blend = {"sources": {"m": {"type": "pretraining", "category": "math"}},
             "phases": [{"until": 1.0, "weights": {"m": 1}}]}  # fmt: skip
    made = {name: {"kind": "tokenizer", "blend": blend} for name in ("own", "other")}
    recipe = build({"name": "t", "stages": {**made, "taught": values(**fields)}})
    run.stage("taught").mkdir(parents=True, exist_ok=True)
    inputs = {name: run.stage(name) for name in ("own", "other")}
    return StageContext("taught", recipe.stages["taught"], recipe, run, inputs)


def engine_of(tokenizer: Any) -> ScriptedEngine:
    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = "so\n</think>\n\n4\n" if tokenizer.decode(prompt).endswith("<think>\n") else "4\n"
        return [*tokenizer.encode(text, add_special_tokens=False), *stop_ids(tokenizer)]

    return ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))


def test_the_stage_learns_measures_and_continues_to_the_bit(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "start_engine", lambda *a, **k: engine_of(tokenizer))
    weights = []
    for name, stops in (("a", []), ("b", [False, True])):
        asked = iter(stops)
        with monkeypatch.context() as patch:
            patch.setattr(StageContext, "should_stop", lambda self: next(asked, False))  # noqa: B023
            for _ in range(1 + bool(stops)):
                made = context(tmp_path / name, tokenizer)
                try:
                    stage.run(made)
                except StopRequested:
                    made.close()
        weights.append(load_model(made.stage_dir / "model").state_dict())
        lines = [json.loads(x) for x in (made.stage_dir / "metrics.jsonl").open()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert lines[-1]["teacher_kl"] < lines[0]["teacher_kl"]
        checked, kl = made.outputs["differences"]
        assert checked["what"] == "checker on held-out replies" and kl["difference"]["value"] < 0
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_budgets_are_dealt_in_turn_and_measured_each(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tokenizer)
    asked: list[int | None] = []
    plain = engine.stream

    def stream(requests: Any) -> Any:
        asked.extend(r.sampling.thinking_budget for r in requests)
        return plain(requests)

    engine.stream = stream  # type: ignore[method-assign]
    monkeypatch.setattr(stage, "start_engine", lambda *a, **k: engine)
    made = context(tmp_path, tokenizer, budgets=[16, None], num_steps=1)
    stage.run(made)
    assert asked == [16] * 4 + [None] * 4 + [16, 16, None, None] + [16] * 4 + [None] * 4
    assert [d["what"] for d in made.outputs["differences"]] == [
        "checker on held-out replies, at most 16 thinking tokens",
        "KL to the teacher, nats/token, at most 16 thinking tokens",
        "checker on held-out replies",
        "KL to the teacher, nats/token",
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"teacher": "nobody"}, "teacher 'nobody' is not in needs"),
        ({"budgets": [0]}, "give numbers above 0"),
        ({"budgets": [8], "thinking": False}, "budgets without a trace"),
        ({"budgets": [8, 16, None], "prompts_per_step": 2}, "3 budgets and 2 prompts a step"),
    ],
)
def test_a_recipe_that_cannot_be_meant(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        OnPolicyDistillConfig.read(values(**fields), where="x")


def test_a_teacher_with_another_tokenizer_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = context(tmp_path, tokenizer)
    file = tmp_path / "run/other/model/tokenizer.json"
    whole = json.loads(file.read_text())
    token = whole["model"]["vocab"].pop(max(whole["model"]["vocab"], key=len))
    whole["model"]["vocab"]["zz"] = token
    whole["model"]["merges"] = []
    file.write_text(json.dumps(whole))
    with pytest.raises(
        UserError, match="teacher 'other' has a tokenizer different from the student's"
    ):
        stage._models(made, tokenizer, None)
