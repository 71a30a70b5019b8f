"""Stage kind `rejection`: a policy and prompts in, rows of its right replies out, shard by shard."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from data_mix.card import finish
from data_mix.shard_columns import CONVERSATION, Columns, Row
from data_mix.shards import (
    Failed,
    Item,
    Kept,
    Outcome,
    Removed,
    ShardFacts,
    ShardWriter,
    shard_facts,
    total,
)
from engine.protocol import Sampling, sample_seed
from engine.remote import start_engine
from model.tokenizer import read_tokenizer
from reward import must_be_checkable
from rl.engine_account import tell_restarts
from rl.rejection.config import RejectionConfig
from rl.reward_source import reward_source
from rl.rows import Rules, take_rows, too_long, warnings_of
from rl.sample import Rollout, Sampler, thinks
from workbench.chat import opens_trace, parse, prompt_ids
from workbench.checkpoint import seed_everything
from workbench.conversation import Conversation, Message
from workbench.errors import UserError
from workbench.stage import StageContext

COLUMNS: Columns = {**CONVERSATION, "value": "number", "tokens": "whole"}
"""Those of a conversation, and of its reply the value and the length in tokens."""
_STEPS = ("sample", "choose")


def run(context: StageContext) -> None:
    """Sample, check and write the prompts of one shard after another; a whole shard is not made again."""
    config: RejectionConfig = context.config
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    questions = _questions(context, tokenizer)
    must_be_checkable(question.check for question in questions)
    size = config.prompts_per_shard
    parts = [questions[first : first + size] for first in range(0, len(questions), size)]
    missing = [n for n in range(len(parts)) if shard_facts(context.stage_dir, n) is None]
    if missing:
        _make(context, tokenizer, parts, missing)
    facts = [found for n in range(len(parts)) if (found := shard_facts(context.stage_dir, n))]
    finish(context, facts, COLUMNS, steps=_STEPS)
    context.note(**{"yield": _yield(facts)})
    if not total(facts).rows_out:
        raise UserError(
            f"rejection: no reply of {len(questions):,} prompts is kept ({_yield(facts)}); take easier "
            "prompts, more samples, or a smaller `least`"
        )


def _make(
    context: StageContext,
    tokenizer: Any,
    parts: Sequence[Sequence[Conversation]],
    missing: Sequence[int],
) -> None:
    config: RejectionConfig = context.config
    context.progress(message="starting the engine")
    score = reward_source(context, tokenizer, {})
    engine = start_engine(context.parent_model, config.engine)
    sampling = Sampling(
        max_tokens=config.max_tokens, n=config.samples, temperature=config.temperature,
        top_p=config.top_p, logprobs=False,
    )  # fmt: skip
    sampler = Sampler(engine, tokenizer, sampling, config.thinking, "mean", score=score)
    for number in missing:
        context.progress(step=number, total=len(parts), message="shards of replies")
        seed = sample_seed(context.seed, "rejection", number)
        groups = sampler.roll_out(parts[number], seed=seed)
        _must_be_decided(groups, config)
        _write(context, number, parts[number], groups, tokenizer)
        if context.should_stop():
            engine.close()
            context.stop()
    tell_restarts(context, engine)
    engine.close()


def _write(
    context: StageContext,
    number: int,
    questions: Sequence[Conversation],
    groups: Sequence[Sequence[Rollout]],
    tokenizer: Any,
) -> None:
    first = number * context.config.prompts_per_shard
    unit = f"prompts {first:,} to {first + len(questions) - 1:,}"
    writer = ShardWriter(context.stage_dir, ShardFacts(number, unit), COLUMNS)
    try:
        for place, (question, group) in enumerate(zip(questions, groups, strict=True)):
            outcome, counts = choose(question, group, context.config, tokenizer)
            item = Item(place, {"id": question.id}, counts)
            writer.put(item, outcome)
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def choose(
    question: Conversation, group: Sequence[Rollout], config: RejectionConfig, tokenizer: Any
) -> tuple[Outcome, Counter[str]]:
    """What is kept of a prompt's replies, and each reply counted once under what became of it."""
    counts = Counter({"choose/replies": len(group)})
    good: dict[str, Rollout] = {}
    for reply in sorted(group, key=lambda r: (-(r.reward or 0.0), r.num_tokens)):
        reason = _why_not(reply, config)
        if not reason and reply.completion.text in good:
            reason = "same"
        if not reason and len(good) == (1 if config.keep == "best" else config.most):
            reason = "more"
        if not reason:
            good[reply.completion.text] = reply
        counts[f"choose/{reason or 'kept'}"] += 1
    if good:
        rows = [
            _row(question, reply, place, tokenizer) for place, reply in enumerate(good.values(), 1)
        ]
        return Kept(rows), counts
    if counts["choose/undecided"] == len(group):
        return Failed("sample", group[0].status[:200]), counts
    return Removed("choose", "all cut" if counts["choose/cut"] else "none right"), counts


def _why_not(reply: Rollout, config: RejectionConfig) -> str:
    """The reason why a reply cannot be kept, whatever else is kept; "" where it can."""
    if reply.reward is None:
        return "undecided"
    if reply.completion.finish_reason != "stop":
        return "cut"
    return "wrong" if reply.reward < config.least else ""


def _row(question: Conversation, reply: Rollout, place: int, tokenizer: Any) -> Row:
    """The conversation with this reply at its end, as SFT will render it."""
    opened = opens_trace(reply.prompt, tokenizer)
    said = parse(reply.completion.text, thinking=opened)
    message: Message = {"role": "assistant", "content": said.answer}
    if said.thinking:
        message["reasoning_content"] = said.thinking
    if said.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": c} for c in said.tool_calls]
    row = question.with_reply(message).to_row()
    return {
        **row,
        "id": f"{question.id}#{place}",
        "thinking": opened,
        "problem": question.problem or question.id,
        "value": reply.reward,
        "tokens": reply.num_tokens,
    }


def _must_be_decided(groups: Sequence[Sequence[Rollout]], config: RejectionConfig) -> None:
    replies = [reply for group in groups for reply in group]
    broken = [reply.status for reply in replies if reply.reward is None]
    if len(broken) > config.max_failed_share * len(replies):
        raise RuntimeError(
            f"{len(broken)} of {len(replies)} replies could not be sampled or checked ({broken[0][:200]}); "
            f"the limit max_failed_share is {config.max_failed_share:.0%}"
        )


def _yield(facts: Sequence[ShardFacts]) -> dict[str, Any]:
    """Of all replies and prompts: how many were kept, and why the others were not."""
    sums = total(facts)
    replies = {key.removeprefix("choose/"): n for key, n in sorted(sums.counts.items())}
    return {
        "prompts": sums.rows_in,
        "prompts_with_rows": sums.kept,
        "rows": sums.rows_out,
        "replies": replies,
        "prompts_without": {**sums.removed, **sums.failed},
    }


def _questions(context: StageContext, tokenizer: Any) -> list[Conversation]:
    config: RejectionConfig = context.config

    def fits(question: Conversation) -> str:
        on = thinks(question.id, config.thinking)
        ids = prompt_ids(question.prompt, question.tools, on, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    rules = Rules(config.checked, config.skip_bad, fits=fits)
    rows, account = take_rows(
        config.prompts, config.num_prompts, rules, name="prompts", seed=context.seed
    )
    context.note(prompts=account)
    context.warn(*warnings_of({"prompts": account}))
    return rows
