"""Rewards from a trained reward model instead of a checker."""

from collections.abc import Sequence
from typing import Any

from reward.score_model import ScoreModel, load_score_model, score_ids, score_rows
from rl.rollout import Score
from workbench.conversation import Conversation
from workbench.engine.protocol import Completion
from workbench.errors import UserError
from workbench.stage import StageContext


def reward_source(context: StageContext, tokenizer: Any) -> Score | None:
    """The stage's reward model as a scoring function; None where the checker is the reward."""
    wanted = context.config.reward
    if wanted.kind == "checker":
        return None
    folder = context.inputs[wanted.model] / "model"
    model = load_score_model(folder)
    own = (folder / "tokenizer.json").read_text(encoding="utf-8")
    policy = (context.parent_model / "tokenizer.json").read_text(encoding="utf-8")
    if own != policy:
        raise UserError(
            f"reward model {wanted.model!r} has another tokenizer than the policy; train it from a "
            "model of the same tokenizer"
        )
    return ModelReward(model, tokenizer)


class ModelReward:
    """Implements rl.rollout.Score with a reward model in this process."""

    def __init__(self, model: ScoreModel, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
    ) -> list[float | None]:
        """A score of each reply; None for those whose generation failed."""
        rows, places, out = list[list[int]](), list[int](), list[float | None]()
        for question, group, thinking in zip(questions, groups, modes, strict=True):
            for done in group:
                out.append(None)
                if done.finish_reason == "error":
                    continue
                places.append(len(out) - 1)
                rows.append(
                    score_ids(
                        question.prompt, done.text, thinking=thinking, tools=question.tools,
                        tokenizer=self.tokenizer,
                    )
                )  # fmt: skip
        pad = int(self.tokenizer.pad_token_id or 0)
        for place, score in zip(
            places, score_rows(self.model, rows, pad_token_id=pad), strict=True
        ):
            out[place] = score
        return out
