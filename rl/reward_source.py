"""Rewards that are not the prompt's own check: a reward model, a judge, or several with weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.judge_client import JudgeClient
from engine.protocol import Completion
from reward import Component, Verdict, compose
from reward.pairwise import Asks, Contest, PairwiseConfig, compare, win_rates
from reward.plugin import FunctionConfig, ReplyToScore, score_items
from reward.reply import read_reply
from reward.rubric import Graded, RubricConfig, grade
from reward.score_model import ScoreModel, load_score_model, score_ids, score_rows
from reward.verdict import decided, failed
from rl.conditioned import BudgetReward
from rl.config import RewardSource
from rl.sample import Score
from workbench.chat import parse
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.errors import UserError
from workbench.stage import StageContext


def reward_source(context: StageContext, tokenizer: Any, anchors: dict[str, str]) -> Score | None:
    """What scores the stage's replies; None where the checker alone does. anchors: see JudgeReward."""
    wanted = context.config.reward
    condition = getattr(context.config, "condition", None)
    if wanted.kind == "checker" and condition is None:
        return None
    made = {
        name: (getattr(source, "weight", 1.0), _one(source, context, tokenizer, anchors))
        for name, source in wanted.sources().items()
    }
    whole: Score = CompositeReward(made)
    if wanted.kind != "composite":
        whole = next(score for _, score in made.values())
    return whole if condition is None else BudgetReward(whole, condition, tokenizer)


def _one(
    source: RewardSource, context: StageContext, tokenizer: Any, anchors: dict[str, str]
) -> Score:
    if source.judge is not None:
        client = JudgeClient(source.judge)
        client.must_answer()
        return JudgeReward(client, source.judge, anchors)
    if source.rubric is not None:
        client = JudgeClient(source.rubric)
        client.must_answer()
        return RubricReward(client, source.rubric)
    if source.function is not None:
        return FunctionReward(source.function)
    if source.model is None:
        return _checker
    folder = context.inputs[source.model] / "model"
    model = load_score_model(folder, str(group.device()))
    own = (folder / "tokenizer.json").read_text(encoding="utf-8")
    policy = (context.parent_model / "tokenizer.json").read_text(encoding="utf-8")
    if own != policy:
        raise UserError(
            f"reward model {source.model!r} has a tokenizer different from the policy's; train it from a "
            "model of the same tokenizer"
        )
    return ModelReward(model, tokenizer)


def _checker(
    questions: Sequence[Conversation],
    groups: Sequence[Sequence[Completion]],
    modes: Sequence[bool],
    checks: Sequence[Verdict],
) -> list[Verdict]:
    """The checks as they are; implements rl.sample.Score."""
    return list(checks)


class ModelReward:
    """Implements rl.sample.Score with a reward model in this process."""

    def __init__(self, model: ScoreModel, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict] = (),
    ) -> list[Verdict]:
        """A score of each reply; an error for those whose generation failed."""
        made, out = _made(questions, groups, modes)
        rows = [
            score_ids(
                question.prompt, done.text, thinking=thinking, tools=question.tools,
                tokenizer=self.tokenizer,
            )
            for question, done, thinking in made.values()
        ]  # fmt: skip
        scores = score_rows(self.model, rows, pad_token_id=int(self.tokenizer.pad_token_id or 0))
        return _filled(out, made, [_scored(score) for score in scores])


def _scored(score: float) -> Verdict:
    finite = math.isfinite(score)
    return decided(score) if finite else failed(f"the reward model's score is {score}")


class FunctionReward:
    """Implements rl.sample.Score with a function of the user's own."""

    def __init__(self, config: FunctionConfig) -> None:
        self.config = config

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict] = (),
    ) -> list[Verdict]:
        """Its verdict on each reply; an error for those whose generation failed."""
        made, out = _made(questions, groups, modes)
        items = []
        for question, done, thinking in made.values():
            reply = read_reply(done.text, thinking_opened=thinking)
            reply = replace(reply, text=done.text, prompt=tuple(question.prompt))
            items.append(ReplyToScore(reply, question.check and question.check.reference))
        return _filled(out, made, score_items(self.config, items))


class JudgeReward:
    """Implements rl.sample.Score with a judge: each reply's win rate in its group.

    A group of one (the held-out measure) meets the first reply that its prompt ever got, which
    `anchors` keeps: question -> answer. So the first measure is 0.5, and a later one says how often
    the policy beats the one that the stage started from.
    """

    def __init__(self, judge: Asks, config: PairwiseConfig, anchors: dict[str, str]) -> None:
        self.judge, self.config, self.anchors = judge, config, anchors

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict] = (),
    ) -> list[Verdict]:
        """A win rate of each reply; an error where it has no decided comparison."""
        answers = [
            [_answer(done, thinking) for done in group]
            for group, thinking in zip(groups, modes, strict=True)
        ]
        if all(len(group) == 1 for group in groups):
            return self._against_anchors(questions, [group[0] for group in answers])
        held = [(q.prompt, group) for q, group in zip(questions, answers, strict=True)]
        rates = win_rates(
            self.judge, held, pairs=self.config.pairs, principle=self.config.principle
        )
        return [verdict for group in rates for verdict in group]

    def _against_anchors(
        self, questions: Sequence[Conversation], answers: Sequence[str | None]
    ) -> list[Verdict]:
        contests, places = list[Contest](), list[int]()
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            if answer is not None:
                first = self.anchors.setdefault(question.id, answer)
                contests.append(Contest(question.prompt, answer, first))
                places.append(place)
        out = [failed("no reply") for _ in answers]
        verdicts = compare(self.judge, contests, self.config.principle)
        for place, verdict in zip(places, verdicts, strict=True):
            out[place] = verdict
        return out


class RubricReward:
    """Implements rl.sample.Score with a judge: each reply's own grade, from 0 to 1."""

    def __init__(self, judge: Asks, config: RubricConfig) -> None:
        self.judge, self.config = judge, config

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict] = (),
    ) -> list[Verdict]:
        """A grade of each reply; an error where there is none, or its generation failed."""
        made, out = _made(questions, groups, modes)
        graded = [
            Graded(question.prompt, _answer(done, thinking) or "", self._reference(question))
            for question, done, thinking in made.values()
        ]
        return _filled(out, made, grade(self.judge, graded, self.config))

    def _reference(self, question: Conversation) -> Any:
        shown = self.config.show_reference and question.check is not None
        return question.check.reference if shown and question.check else None


class CompositeReward:
    """Implements rl.sample.Score: the weighted mean of others, with every part on record."""

    def __init__(self, parts: Mapping[str, tuple[float, Score]]) -> None:
        self.parts = dict(parts)

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict],
    ) -> list[Verdict]:
        """One undecided part makes a reply's whole undecided."""
        columns = [
            [Component(name, weight, v) for v in score(questions, groups, modes, checks)]
            for name, (weight, score) in self.parts.items()
        ]
        return [compose(row) for row in zip(*columns, strict=True)]


_Made = dict[int, tuple[Conversation, Completion, bool]]


def _made(
    questions: Sequence[Conversation],
    groups: Sequence[Sequence[Completion]],
    modes: Sequence[bool],
) -> tuple[_Made, list[Verdict]]:
    """Place -> the replies that were made; and a verdict for every place, an error so far."""
    whole = [
        (question, done, thinking)
        for question, group, thinking in zip(questions, groups, modes, strict=True)
        for done in group
    ]
    made = {n: one for n, one in enumerate(whole) if one[1].finish_reason != "error"}
    return made, [failed(done.error or "error") for _, done, _ in whole]


def _filled(out: list[Verdict], made: _Made, verdicts: Sequence[Verdict]) -> list[Verdict]:
    for place, verdict in zip(made, verdicts, strict=True):
        out[place] = verdict
    return out


def _answer(done: Completion, thinking: bool) -> str | None:
    """What a judge sees: the answer without its trace; a trace that never closes has none."""
    if done.finish_reason == "error":
        return None
    reply = parse(done.text, thinking=thinking)
    calls = f"\n{reply.tool_calls}" if reply.tool_calls else ""
    return f"{reply.answer}{calls}".strip()
