"""A policy is validated while it trains: by whom it is asked, what stays, and what a kill costs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import rl.stage
from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from model.hybrid import load_model
from rl.config import GrpoValidation
from rl.loop import Grpo, GrpoHooks
from rl.prefetch import Prefetch
from rl.sample import Sampled, Sampler
from rl.validation import disjoint, policy_estimates
from tests.unit.rl.test_grpo_loop import grpo
from tests.unit.rl.test_grpo_stage import context_of, row
from workbench.checkpoint import Checkpoints
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError
from workbench.records import Estimate
from workbench.tracking import read_metrics
from workbench.validation import Validation, ValidationConfig


def question(name: str, problem: str | None = None) -> Conversation:
    check = CheckSpec("contains", ["yes"])
    messages = [{"role": "user", "content": f"{name}: agree?"}]
    return Conversation(name, "x", messages, check=check, problem=problem)


def engine_of(tokenizer: PreTrainedTokenizerFast, right: Callable[[int, int], bool]) -> Any:
    """right(version, sample): whether that reply is right."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        word = "yes" if right(engine.version, sample) else "no"
        words: list[int] = tokenizer.encode(word, add_special_tokens=False)
        return [*words, int(tokenizer.eos_token_id or 0)]

    engine = ScriptedEngine(
        script, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
    )
    return engine


def test_the_interval_is_clustered_by_problem(tokenizer: PreTrainedTokenizerFast) -> None:
    """Three prompts of two problems, two replies each, of which every first is right.

    [derived] Sums of deviations from 1/2 by problem are 0 and 0: the error is that of its two problems.
    """
    sampler = Sampler(
        engine_of(tokenizer, lambda version, sample: sample == 0), tokenizer, Sampling(max_tokens=8, n=5),
        False, "group",
    )  # fmt: skip
    asked = [question("a", "p"), question("b", "p"), question("c", "q")]
    wanted = GrpoValidation(every=1, samples=2)
    found = policy_estimates(sampler, asked, wanted, seed=1, max_failed_share=0.2)
    assert found.keys() == {"reward"} and found["reward"].value == 0.5 and found["reward"].n == 6
    # Wilson's interval of 1/2 with n = 2.
    z = 1.959963984540054
    half = z * math.sqrt(0.25 / 2 + z * z / 16) / (1 + z * z / 2)
    assert found["reward"].ci95 == pytest.approx((0.5 - half, 0.5 + half))


def test_prompts_of_the_held_out_measure_are_not_asked() -> None:
    held_out = [question("a", "p"), question("b", "q")]
    further = [question("c", "p"), question("d", "r"), question("e", "s")]
    assert [q.id for q in disjoint(held_out, further)] == ["validation/d", "validation/e"]
    with pytest.raises(UserError, match=r"validation: 1 of 2 prompts are not held out too; give"):
        disjoint(held_out, further[:2])


def scores(values: dict[int, float], trainer: Grpo) -> Validation:
    """Of a trainer, the value at each step."""
    config = ValidationConfig.read({"every": 1, "keep": "best", "patience": 2}, where="validation")
    measure = lambda: {"reward": Estimate(values[trainer.step], 0.0, (0.0, 1.0), 3)}  # noqa: E731
    return Validation(config, measure, by="reward")


def run(
    trainer: Grpo, folder: Path, kill_at: int | None = None
) -> list[tuple[int, dict[str, float]]]:
    """Fit as the stage does. kill_at: the process dies in that step's validation."""
    lines: list[tuple[int, dict[str, float]]] = []
    measured = trainer.validation._measure
    assert measured is not None

    def measure() -> Any:
        if trainer.step == kill_at:
            raise KeyboardInterrupt
        return measured()

    trainer.validation._measure = measure
    trainer.resume(folder)
    hooks = GrpoHooks(lambda s, m, tokens: lines.append((s, m)), lambda step: None, bool)
    saves = Checkpoints(folder, spared=lambda: trainer.validation.kept_step)
    assert trainer.fit(hooks, saves)
    best = trainer.validation.must_return(trainer.step)
    if best is not None:
        trainer.return_to(folder, best)
    return lines


def made(values: dict[int, float]) -> Grpo:
    trainer = grpo(
        lambda n: [1.0, 0.0], num_steps=9, checkpoint_every_steps=3, lr=1e-2, max_staleness=9,
    )  # fmt: skip
    trainer.validation = scores(values, trainer)
    return trainer


VALUES = {0: 0.1, 1: 0.2, 2: 0.6, 3: 0.3, 4: 0.5, 5: 0.9}


def test_the_best_weights_come_back_and_patience_ends_the_training(tmp_path: Path) -> None:
    """Best at 2, patience 2: it ends at 4 of 9, with the weights of step 2 in model and engine."""
    trainer = made(VALUES)
    weights: dict[int, dict[str, torch.Tensor]] = {}
    trainer.validation._note = lambda outputs: weights.setdefault(
        trainer.step, {k: v.clone() for k, v in trainer.model.state_dict().items()}
    )  # type: ignore[func-returns-value,assignment]
    lines = run(trainer, tmp_path)
    assert [step for step, _ in lines] == [0, 1, 2, 3, 4]
    assert [line["validation/reward"] for _, line in lines] == [0.1, 0.2, 0.6, 0.3, 0.5]
    assert lines[0][1].keys() & {"loss", "reward"} == set()
    now = trainer.model.state_dict()
    assert all(torch.equal(now[k], v) for k, v in weights[2].items())
    assert not all(torch.equal(now[k], v) for k, v in weights[4].items())
    assert trainer.validation.outputs()["validation"]["ended_early"]


@pytest.mark.parametrize("kill_at", [0, 2, 4])
def test_a_kill_in_the_middle_of_a_validation_costs_nothing(tmp_path: Path, kill_at: int) -> None:
    """Continued, the weights and the history are those of a run that nobody killed, to the bit."""
    whole = made(VALUES)
    run(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(made(VALUES), tmp_path / "killed", kill_at)
    again = made(VALUES)
    run(again, tmp_path / "killed")
    assert again.validation.history == whole.validation.history
    assert all(
        torch.equal(v, again.model.state_dict()[k]) for k, v in whole.model.state_dict().items()
    )


def test_a_validation_does_not_move_what_is_trained(tmp_path: Path) -> None:
    plain, validated = made(VALUES), made(dict.fromkeys(range(10), 0.5) | {9: 0.6})
    plain.validation = Validation()
    validated.validation.config = ValidationConfig(every=1)
    hooks = GrpoHooks(lambda *line: None, lambda step: None, bool)
    for number, trainer in enumerate((plain, validated)):
        assert trainer.fit(hooks, Checkpoints(tmp_path / str(number)))
    assert all(
        torch.equal(v, validated.model.state_dict()[k]) for k, v in plain.model.state_dict().items()
    )


def test_sampling_ahead_waits_for_a_validation() -> None:
    """An engine has one batch at a time: nothing is collected while `paused`."""
    collected = list[int]()

    def collect(position: int) -> Sampled:
        collected.append(position)
        return Sampled([], [], position + 1, 0.0, 0.0)

    ahead = Prefetch(collect, max_staleness=1, step=0, num_steps=9, position=0)
    ahead.take(0)
    with ahead.paused():
        before = len(collected)
        ahead.published(5)
        assert len(collected) == before
    ahead.take(1)
    ahead.take(2)
    ahead.close()
    assert len(collected) >= 3


def test_the_stage_asks_further_held_out_prompts_and_says_what_it_kept(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right with the weights of version 1 alone: step 1 is the best, and its weights are saved."""
    engine = engine_of(tokenizer, lambda version, sample: bool(sample % 2) or version == 1)
    monkeypatch.setattr(rl.stage, "start_engine", lambda *args: engine)
    context = context_of(
        tmp_path, tokenizer, [row(name) for name in "abcd"], num_steps=3, num_held_out=3,
        validation={"every": 1, "keep": "best", "num_prompts": 4}, lr=1e-2,
        held_out=further(tmp_path, 7),
    )  # fmt: skip
    rl.stage.run(context)
    found = context.outputs["validation"]
    assert [line["reward"]["value"] for line in found["history"]] == [0.0, 1.0, 0.0, 0.0]
    assert (found["best_step"], found["keep"], found["by"]) == (1, "best", "reward")
    assert found["history"][0]["reward"]["n"] == 4
    assert len(context.outputs["held_out_before"]) == 3
    context.close()
    lines = read_metrics(context.stage_dir / "metrics.jsonl")
    assert [line["validation/reward"] for line in lines] == [0.0, 1.0, 0.0, 0.0]
    kept = context.stage_dir / "checkpoints" / "step-00000001.pt"
    best = torch.load(kept, weights_only=True)["model"]
    saved = load_model(context.stage_dir / "model").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in best.items())


def further(folder: Path, count: int) -> dict[str, Any]:
    import json

    path = folder / "further.jsonl"
    path.write_text("".join(json.dumps(row(f"h{n}")) + "\n" for n in range(count)))
    return {"type": "jsonl", "path": str(path), "form": "conversation"}


def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [row(name) for name in "ab"]
    with pytest.raises(UserError, match=r"validation\.samples 2 with a judge, which compares"):
        context_of(
            tmp_path, tokenizer, rows, validation={"every": 1, "samples": 2},
            reward={"kind": "judge", "judge": {"endpoint": "http://x/v1#m"}},
        )  # fmt: skip
    with pytest.raises(UserError, match=r"'stages\.grpo\.validation\.evry'; did you mean 'every'"):
        context_of(tmp_path, tokenizer, rows, validation={"every": 1, "evry": 1})
