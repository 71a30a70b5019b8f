"""Stage kind `grpo`: a policy and verifiable prompts in, a better policy out, with its lift."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from budget.engine import with_budgets
from engine.actor import start_engine
from engine.protocol import Sampling
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from model.tokenizer import read_tokenizer
from reward import must_be_checkable
from rl.config import GrpoConfig
from rl.disjoint import check_prompts
from rl.grpo import Grpo, Hooks
from rl.lift import lift
from rl.record import RolloutLog
from rl.reward_source import reward_source
from rl.rollout import Sampler, thinks
from rl.rows import Rules, take_rows, too_long, warnings_of
from workbench.chat import prompt_ids
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.conversation import Conversation
from workbench.memory import keep_freed_memory
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Measure, train, measure again, save."""
    config: GrpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    context.progress(message="looking at the prompts")
    tokenizer = read_tokenizer(context.parent_model)
    pool, held_out = take_questions(context, tokenizer)
    must_be_checkable(question.check for question in (*pool, *held_out))
    check_prompts(pool, held_out)
    context.progress(message="starting the engine")
    model = load_model(context.parent_model)
    check_isolation(model)
    budgets = config.thinking_budget is not None
    engine = start_engine(
        context.parent_model, with_budgets(config.engine) if budgets else config.engine
    )
    sampling = Sampling(
        max_tokens=config.max_tokens, n=config.group_size, temperature=config.temperature,
        top_p=config.top_p, top_k=config.top_k, min_p=config.min_p,
        thinking_budget=config.thinking_budget, thinking_grace=config.thinking_grace,
    )  # fmt: skip
    # A judge's held-out measure compares with these, before a restart too.
    kept = context.stage_dir / "held_out_replies.json"
    anchors: dict[str, str] = read_json(kept) if kept.is_file() else {}
    sampler = Sampler(
        engine, tokenizer, sampling, config.thinking, config.advantage, config.overlong,
        config.mask_truncated, config.reward_options, reward_source(context, tokenizer, anchors),
        config.check_limit_s,
    )  # fmt: skip
    grpo = Grpo(model, sampler, pool, config, context.seed)
    checkpoints = Checkpoints(context.stage_dir / "checkpoints")
    state = checkpoints.load_latest()
    record = RolloutLog(context.stage_dir / "rollouts.jsonl", tokenizer, config.record_groups)
    if state is not None:
        grpo.load_state_dict(state)
        context.metrics.truncate_after(grpo.step)
    record.truncate_after(grpo.step)
    if "held_out_before" not in context.outputs:
        context.progress(message="held-out reward before")
        context.outputs |= held_out_rewards(sampler, held_out, context.seed, "before")
        if anchors:
            write_json(kept, anchors)
    if not grpo.fit(_hooks(context, config, record), checkpoints):
        context.stop()
    context.progress(message="held-out reward after")  # the engine holds the last step's weights
    context.outputs |= held_out_rewards(sampler, held_out, context.seed, "after")
    for name in ("held_out", "held_out_checker"):
        if f"{name}_before" in context.outputs:
            before, after = (context.outputs[f"{name}_{when}"] for when in ("before", "after"))
            problems = [question.problem or question.id for question in held_out]
            context.outputs[name] = lift(before, after, problems)
    context.outputs["engine"] = engine.describe()
    save_model(model, context.stage_dir / "model", tokenizer)
    engine.close()


def take_questions(
    context: StageContext, tokenizer: Any
) -> tuple[list[Conversation], list[Conversation]]:
    """The prompts to train on and those held out, each of which can be asked and checked."""
    config: GrpoConfig = context.config

    def fits(question: Conversation) -> str:
        on = thinks(question, config.thinking)
        ids = prompt_ids(question.prompt, question.tools, on, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    rules = Rules(config.checked, config.skip_bad, config.reward_options, fits)
    pool, asked = take_rows(
        config.prompts, config.num_prompts, rules, name="prompts", seed=context.seed
    )
    rules = replace(rules, options={})  # the held-out reward keeps the prompt's own
    held_out, kept = take_rows(
        config.held_out, config.num_held_out, rules, name="held_out", seed=context.seed
    )
    context.outputs["rows"] = accounts = {"prompts": asked, "held_out": kept}
    context.outputs["warnings"] = warnings_of(accounts)
    return pool, held_out


def held_out_rewards(
    sampler: Sampler, questions: Sequence[Conversation], seed: int, when: str
) -> dict[str, list[float | None]]:
    """One sampled reply a question, at the training temperature; None where it failed.

    With a reward model or a judge: its verdicts, and what the checker says of the same replies.
    """
    once = replace(sampler, sampling=replace(sampler.sampling, n=1), reward_options={})
    firsts = [group[0] for group in once.roll_out(questions, seed=seed)]
    out = {f"held_out_{when}": [first.reward for first in firsts]}
    if any(first.checked is not None for first in firsts):
        out[f"held_out_checker_{when}"] = [first.checked for first in firsts]
    return out


def _hooks(context: StageContext, config: GrpoConfig, record: RolloutLog) -> Hooks:
    return Hooks(
        record=record.write,
        log=lambda step, metrics, tokens: context.log_metrics(step, metrics, tokens=tokens),
        progress=lambda step: context.progress(step=step, total=config.num_steps, message="GRPO"),
        should_stop=context.should_stop,
    )
