"""Stage kind `dpo`: rounds of playing, pairing and training; success on held-out tasks around them."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.actor import start_engine
from engine.protocol import Sampling
from environments.catalogue import make_environment, take_tasks
from environments.protocol import Task
from environments.rollout import Player, Trajectory
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from rl.disjoint import check_tasks
from rl.dpo.config import DpoConfig
from rl.dpo.pairs import Pair, make_pairs
from rl.dpo.trainer import PairCollator, StrictDPOTrainer, trl_config
from rl.lift import lift
from rl.rows import good_tasks, too_long, warnings_of
from workbench.chat import prompt_ids
from workbench.checkpoint import seed_everything
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.strict_trainer import MetricsCallback, last_checkpoint

_NAMES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "rewards/accuracies": "pair_accuracy",
    "rewards/margins": "pair_margin",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}


def run(context: StageContext) -> None:
    """Measure, then rounds of play and training, then measure again on the same tasks."""
    config: DpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = AutoTokenizer.from_pretrained(context.parent_model)
    tasks, held_out = _tasks(context, config, tokenizer)
    check_tasks(tasks, held_out)
    context.progress(message="starting the engine")
    player = _player(context, config, tokenizer)
    if "held_out_before" not in context.outputs:
        context.progress(message="held-out success before")
        context.outputs["held_out_before"] = held_out_success(player, held_out, context)
    policy = context.parent_model
    for number in range(config.rounds):
        trained = _round(context, player, tokenizer, tasks, policy, number)
        if trained is None:
            break
        policy = trained
    player.engine.load_checkpoint(str(policy), version=config.rounds)
    context.progress(message="held-out success after")
    after = held_out_success(player, held_out, context)
    context.outputs["held_out_after"] = after
    problems = [task.problem or task.id for task in held_out]
    context.outputs["held_out"] = lift(context.outputs["held_out_before"], after, problems)
    context.outputs["engine"] = player.engine.describe()
    save_model(load_model(policy), context.stage_dir / "model", tokenizer)
    for folder in context.stage_dir.glob("rounds/*/*/"):
        shutil.rmtree(folder)  # models and checkpoints; episodes and pairs' accounts stay
    player.engine.close()


def _tasks(
    context: StageContext, config: DpoConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Task], list[Task]]:
    """The tasks to learn from and those held out, each with room for a first reply."""

    def fits(task: Task) -> str:
        ids = prompt_ids(task.messages, task.tools, config.thinking, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    out, accounts = [], {}
    for name, source, count in (
        ("tasks", config.tasks, config.num_tasks),
        ("held_out", config.held_out, config.num_held_out),
    ):
        tasks = take_tasks(source, count, context.seed)
        good, accounts[name] = good_tasks(tasks, fits, skip_bad=config.skip_bad, name=name)
        out.append(good)
    context.outputs["tasks"] = accounts
    context.outputs["warnings"] = warnings_of(accounts)
    return out[0], out[1]


def _player(context: StageContext, config: DpoConfig, tokenizer: PreTrainedTokenizerBase) -> Player:
    engine = start_engine(context.parent_model, config.engine)
    sampling = Sampling(
        max_tokens=config.max_tokens, temperature=config.temperature, logprobs=False
    )
    return Player(
        engine,
        tokenizer,
        sampling,
        config.thinking,
        config.max_turns,
        config.engine.max_model_len,
        make_environment,
    )


def held_out_success(
    player: Player, tasks: Sequence[Task], context: StageContext
) -> list[float | None]:
    """Share of each task's episodes that succeed; None where all of them broke."""
    config: DpoConfig = context.config
    groups = player.play(tasks, samples=config.held_out_samples, seed=context.seed)
    out: list[float | None] = []
    for group in groups:
        known = [float(t.success) for t in group if t.success is not None]
        out.append(sum(known) / len(known) if known else None)
    return out


def _round(
    context: StageContext,
    player: Player,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    policy: Path,
    number: int,
) -> Path | None:
    """One round; its model's folder, or None where there is nothing to learn from any more."""
    config: DpoConfig = context.config
    folder = context.stage_dir / "rounds" / str(number)
    done = folder / "model"
    if done.is_dir():
        return done
    if not (folder / "pairs.pt").is_file():
        context.progress(message=f"round {number + 1}: playing")
        player.engine.load_checkpoint(str(policy), version=number)
        groups = player.play(tasks, samples=config.samples, seed=context.seed + number + 1)
        pairs, account = make_pairs(
            groups,
            per_task=config.pairs_per_task,
            row_tokens=config.row_tokens,
            seed=context.seed + number,
        )
        check_broken(groups, config.max_failed_share)
        _write_round(folder, groups, pairs, account.as_dict())
    rounds = context.outputs.setdefault("rounds", [])
    if len(rounds) <= number:
        rounds.append(read_json(folder / "account.json"))
    pairs = torch.load(folder / "pairs.pt", weights_only=False)
    if not pairs:
        line = (
            f"round {number + 1}: no task has both a success and a failure "
            f"({rounds[number]['success']:.0%} of episodes succeed)"
        )
        if number == 0:
            raise UserError(f"dpo: {line}; take easier or harder tasks, or more samples")
        context.outputs.setdefault("warnings", []).append(f"{line}; training ended there")
        return None
    model = _train(context, tokenizer, pairs, policy, folder, number)
    return save_model(model, done, tokenizer)


def check_broken(groups: Sequence[Sequence[Trajectory]], limit: float) -> None:
    """Raises: RuntimeError where more episodes than that broke: what is left may be biased."""
    flat = [t for group in groups for t in group]
    broken = [t.verdict.parts.get("reason", "?") for t in flat if t.success is None and t.verdict]
    if len(broken) > limit * len(flat):
        raise RuntimeError(
            f"{len(broken)} of {len(flat)} episodes broke ({broken[0][:150]}); the limit "
            f"max_failed_share is {limit:.0%}"
        )


def _write_round(
    folder: Path,
    groups: Sequence[Sequence[Trajectory]],
    pairs: Sequence[Pair],
    account: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(t.as_row(), ensure_ascii=False) for group in groups for t in group)
    (folder / "episodes.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_json(folder / "account.json", account)
    half = folder / ".pairs.pt"
    torch.save([pair.to_row() for pair in pairs], half)
    os.replace(half, folder / "pairs.pt")


def _train(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict[str, Any]],
    policy: Path,
    folder: Path,
    number: int,
) -> Any:
    config: DpoConfig = context.config
    model = load_model(policy)
    check_isolation(model)
    # From the rounds' own files: the manifest forgets what a killed attempt had done.
    earlier = (folder.parent / str(n) / "steps.json" for n in range(number))
    offset = sum(int(read_json(path)) for path in earlier)
    callback = MetricsCallback(
        context, _NAMES, offset=offset, about=f"round {number + 1}: {len(pairs)} pairs"
    )
    trainer = StrictDPOTrainer(
        model=model,
        args=trl_config(config, folder / "checkpoints", context.seed + number),
        data_collator=PairCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=Dataset.from_list(
            [{k: v for k, v in p.items() if k != "task"} for p in pairs]
        ),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    resume = last_checkpoint(folder / "checkpoints")
    done = int(resume.rsplit("-", 1)[1]) if resume else 0
    context.metrics.truncate_after(offset + done)
    trainer.train(resume_from_checkpoint=resume)
    if callback.stopped:
        context.stop()
    write_json(folder / "steps.json", trainer.state.global_step)
    return model
