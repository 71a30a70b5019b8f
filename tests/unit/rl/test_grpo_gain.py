"""The figure that a GRPO stage is quoted by: held-out reward after training minus before it."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from rl import stage
from rl.config import GrpoConfig
from rl.turns import Turns
from workbench.conversation import Conversation

HELD_OUT = [
    Conversation(f"h{n}", "math", [{"role": "user", "content": f"{n}?"}], problem=f"p{n // 2}")
    for n in range(6)
]
# Of the six: one right before, four after, and one reply that was never made.
BEFORE, AFTER = [0.0, 0.0, 1.0, 0.0, 0.0, None], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


class FakeGrpo:
    """In place of the loop: it trains at once, and says whether it did."""

    trained = False

    def __init__(self, *args: Any) -> None:
        self.step = 0
        self.turns = Turns(on=False, move=lambda away: None, rest=lambda: None)

    def resume(self, folder: Path) -> bool:
        return False

    def fit(self, hooks: Any, checkpoints: Any) -> bool:
        FakeGrpo.trained = True
        return True


@pytest.fixture
def run_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stage's own `run` around a loop, an engine and a model that are none."""
    FakeGrpo.trained = False
    asked: list[tuple[str, bool]] = []

    def rewards(sampler: Any, questions: Sequence[Conversation], seed: int, when: str) -> Any:
        asked.append((when, FakeGrpo.trained))
        values = AFTER if FakeGrpo.trained else BEFORE
        return {f"held_out_{when}": values, f"held_out_checker_{when}": values[:1] * 6}

    engine = SimpleNamespace(describe=dict, close=lambda: None)
    for name, stand_in in {
        "read_tokenizer": lambda path: None,
        "load_base": lambda path, lora, device: nn.Module(),
        "check_isolation": lambda model, precision: None,
        "must_be_checkable": lambda checks: None,
        "take_questions": lambda context, tokenizer: ([], HELD_OUT),
        "start_engine": lambda path, config: engine,
        "reward_source": lambda *args: None,
        "Grpo": FakeGrpo,
        "held_out_rewards": rewards,
        "save_model": lambda *args: None,
    }.items():
        monkeypatch.setattr(stage, name, stand_in)
    world = {"type": "world", "domain": "math"}
    config = GrpoConfig.read({"kind": "grpo", "prompts": world, "held_out": world}, where="grpo")

    def run(outputs: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
        context: Any = SimpleNamespace(
            config=config, seed=1, parent_model=tmp_path, stage_dir=tmp_path, outputs=outputs,
            progress=lambda **words: None, metrics=None, log_metrics=None, should_stop=None,
            note=lambda **found: outputs.update(found), keep=lambda **found: outputs.update(found),
        )  # fmt: skip
        stage.run(context)
        return context.outputs, asked

    return run


def test_the_lift_is_after_minus_before(run_stage: Any) -> None:
    """Over the five questions that both answered: 1/5 before, 4/5 after, +3/5, of three problems."""
    outputs, asked = run_stage({})
    assert asked == [("before", False), ("after", True)]
    found, checker = outputs["differences"]
    assert found["before"]["value"] == pytest.approx(0.2)
    assert found["after"]["value"] == pytest.approx(0.8)
    assert found["difference"]["value"] == pytest.approx(0.6)
    assert (found["difference"]["n"], found["problems"], found["failed"]) == (5, 3, 1)
    assert (checker["before"]["value"], checker["after"]["value"]) == (0.0, 1.0)
    assert checker["difference"]["value"] == 1.0


def test_a_resumed_stage_keeps_what_was_measured_before_it(run_stage: Any) -> None:
    """The engine may hold trained weights by then: it is not measured again."""
    kept = {"held_out_before": BEFORE, "held_out_checker_before": [0.0] * 6}
    outputs, asked = run_stage(dict(kept))
    assert asked == [("after", True)]
    assert outputs["differences"][0]["difference"]["value"] == pytest.approx(0.6)
