"""Stage kind `grpo`: a policy and verifiable prompts in, a better policy out, and what it gained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch

from budget.engine import with_budgets
from engine.actor import start_engine
from engine.protocol import Sampling
from environments.catalogue import take_tasks
from environments.config import EnvironmentSource, PromptsConfig
from environments.protocol import Task
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from model.lora import add_adapters, merge_adapters, save_adapters
from model.tokenizer import read_tokenizer
from reward import must_be_checkable
from rl.advantage import Kind
from rl.conditioned import conditioned
from rl.config import GrpoConfig
from rl.held_out import check_held_out
from rl.loop import Grpo, Hooks
from rl.own import own_advantage
from rl.reward_source import reward_source
from rl.rollout_log import RolloutLog
from rl.rows import Rules, good_tasks, take_rows, too_long, warnings_of
from rl.sample import Sampler, thinks
from workbench.chat import prompt_ids
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.memory import keep_freed_memory
from workbench.own_code import is_own
from workbench.records import to_json
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference


def run(context: StageContext) -> None:
    """Measure, train, measure again, save."""
    config: GrpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    context.progress(message="looking at the prompts")
    tokenizer = read_tokenizer(context.parent_model)
    pool, held_out = take_questions(context, tokenizer)
    must_be_checkable(q.check for q in (*pool, *held_out) if isinstance(q, Conversation))
    check_held_out(pool, held_out)
    context.progress(message="starting the engine")
    dtype = config.lora.base if config.lora else "float32"
    model = load_model(context.parent_model, dtype=dtype, device=str(group.place(config)))
    check_isolation(model)
    if config.lora:
        add_adapters(model, config.lora)
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
        engine, tokenizer, sampling, config.thinking, _advantage(config), config.overlong,
        config.mask_truncated, config.reward_options, reward_source(context, tokenizer, anchors),
        config.check_limit_s, config.max_turns, config.engine.max_model_len, config.reward.of_parts,
        keep_prefix=config.history == "kept", episode_tokens=config.max_episode_tokens,
        credit=config.credit,
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
        before = held_out_rewards(sampler, held_out, context.seed, "before")
        if anchors:
            write_json(kept, anchors)
        context.note(**before)
    if not grpo.fit(_hooks(context, config, record), checkpoints):
        context.stop()
    context.progress(message="held-out reward after")  # the engine holds the last step's weights
    context.outputs |= held_out_rewards(sampler, held_out, context.seed, "after")
    differences = []
    for name in ("held_out", "held_out_checker"):
        if f"{name}_before" in context.outputs:
            then, now = (context.outputs[f"{name}_{when}"] for when in ("before", "after"))
            problems = [question.problem or question.id for question in held_out]
            what, share = _measured(config) if name == "held_out" else (_CHECKED, True)
            found = paired_difference(then, now, problems, what=what, share=share)
            differences.append(to_json(found))
    context.outputs["differences"] = differences
    context.outputs["engine"] = engine.describe()
    if config.lora:
        folder = context.stage_dir / "adapter"
        save_adapters(model, config.lora, folder, str(context.parent_model))
        merge_adapters(model)
    save_model(model, context.stage_dir / "model", tokenizer)
    engine.close()


def _advantage(config: GrpoConfig) -> Kind:
    if is_own(config.advantage):
        return own_advantage(config.advantage)
    return cast(Literal["group", "mean", "leave_one_out"], config.advantage)


Prompts = list[Conversation] | list[Task]


def take_questions(context: StageContext, tokenizer: Any) -> tuple[Prompts, Prompts]:
    """The prompts to train on and those held out, each of which can be asked and checked."""
    config: GrpoConfig = context.config

    def fits(question: Conversation | Task) -> str:
        on = thinks(question.id, config.thinking)
        if isinstance(question, Conversation) and config.condition is not None:
            question = conditioned(question, config.condition)
        asked = question.messages if isinstance(question, Task) else question.prompt
        ids = prompt_ids(asked, question.tools, on, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    def take(
        name: str, source: PromptsConfig, count: int, options: Mapping[str, Any]
    ) -> tuple[Prompts, dict[str, Any]]:
        if isinstance(source, EnvironmentSource):
            tasks = take_tasks(source.tasks, count, context.seed)
            return good_tasks(tasks, fits, skip_bad=config.skip_bad, name=name)
        rules = Rules(config.checked, config.skip_bad, options, fits)
        rows, account = take_rows(source, count, rules, name=name, seed=context.seed)
        if config.condition is not None:
            rows = [conditioned(row, config.condition) for row in rows]
        return rows, account

    pool, asked = take("prompts", config.prompts, config.num_prompts, config.reward_options)
    # The held-out reward keeps the prompt's own options.
    held_out, kept = take("held_out", config.held_out, config.num_held_out, {})
    accounts = {"prompts": asked, "held_out": kept}
    context.note(rows=accounts, warnings=warnings_of(accounts))
    return pool, held_out


_CHECKED = "checker on the same replies"
_REWARDS = {
    "function": "reward of one's own function",
    "model": "reward model's score",
    "judge": "judge's win rate",
    "rubric": "judge's score by the rubric",
}


def _measured(config: GrpoConfig) -> tuple[str, bool]:
    """What the held-out reward is, and whether it is a share: a reward model's score and a function's value
    have no scale, nor has a mean with one in it."""
    kinds = {source.kind for source in config.reward.sources().values()}
    return _REWARDS.get(config.reward.kind, "held-out reward"), not kinds & {"function", "model"}


def held_out_rewards(
    sampler: Sampler, questions: Sequence[Conversation | Task], seed: int, when: str
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
