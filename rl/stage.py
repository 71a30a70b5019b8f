"""Stage kind `grpo`: a policy and verifiable prompts in, a better policy out, with its lift."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from budget.engine import with_budgets
from data_mix.supervised import take_conversations
from pretrain.hybrid import load_model, save_model
from pretrain.ssd.isolation import check_isolation
from pretrain.tokenizer import read_tokenizer
from rl.config import GrpoConfig
from rl.grpo import Grpo, Hooks, sync
from rl.rollout import Sampler
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.conversation import Conversation
from workbench.engine.actor import start_engine
from workbench.engine.protocol import Sampling
from workbench.memory import keep_freed_memory
from workbench.stage import StageContext
from workbench.statistics import mean_interval_normal, paired_interval


def run(context: StageContext) -> None:
    """Measure, train, measure again, save."""
    config: GrpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    context.progress(message="starting the engine")
    tokenizer = read_tokenizer(context.parent_model)
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
    sampler = Sampler(
        engine, tokenizer, sampling, config.thinking, config.advantage, config.overlong,
        config.mask_truncated, config.reward_options,
    )  # fmt: skip
    pool = take_conversations(config.prompts, config.num_prompts, name="prompts", seed=context.seed)
    held_out = take_conversations(
        config.held_out, config.num_held_out, name="held_out", seed=context.seed
    )
    grpo = Grpo(model, sampler, pool, config, context.seed)
    checkpoints = Checkpoints(context.stage_dir / "checkpoints")
    state = checkpoints.load_latest()
    if state is not None:
        grpo.load_state_dict(state)
        context.metrics.truncate_after(grpo.step)
    if "held_out_before" not in context.outputs:
        context.progress(message="held-out reward before")
        context.outputs["held_out_before"] = held_out_rewards(sampler, held_out, context.seed)
    if not grpo.fit(_hooks(context, config), checkpoints):
        context.stop()
    context.progress(message="held-out reward after")
    sync(model, engine, version=grpo.step)
    after = held_out_rewards(sampler, held_out, context.seed)
    context.outputs |= _lift(context.outputs["held_out_before"], after)
    context.outputs["engine"] = engine.describe()
    save_model(model, context.stage_dir / "model", tokenizer)
    engine.close()


def held_out_rewards(
    sampler: Sampler, questions: Sequence[Conversation], seed: int
) -> list[float | None]:
    """One sampled reply a question, at the training temperature; None where it failed."""
    once = replace(sampler, sampling=replace(sampler.sampling, n=1), reward_options={})
    return [group[0].reward for group in once.roll_out(questions, seed=seed)]


def _lift(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any]:
    both = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    firsts, lasts = [b for b, _ in both], [a for _, a in both]
    return {
        "held_out_after": list(after),
        "held_out": {
            "before": mean_interval_normal(firsts).as_dict(),
            "after": mean_interval_normal(lasts).as_dict(),
            "lift": paired_interval(firsts, lasts).as_dict(),
            "n": len(both),
        },
    }


def _hooks(context: StageContext, config: GrpoConfig) -> Hooks:
    return Hooks(
        log=lambda step, metrics, tokens: context.log_metrics(step, metrics, tokens=tokens),
        progress=lambda step: context.progress(step=step, total=config.num_steps, message="GRPO"),
        should_stop=context.should_stop,
    )
