"""Stage kind `dpo`: rounds of playing, pairing and training; success on held-out tasks around them."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from engine.protocol import Sampling
from engine.remote import start_engine
from environments.catalogue import take_tasks
from environments.protocol import Task
from environments.rollout import Player, Trajectory
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from model.lora import add_adapters, load_base, merge_adapters, save_adapters
from model.lora_config import dtype_of
from model.tokenizer import read_tokenizer
from rl.dpo.config import DpoConfig
from rl.dpo.pairs import EpisodePair, make_pairs
from rl.dpo.trainer import PairCollator, StrictDPOTrainer, trl_config
from rl.engine_account import keep_engine
from rl.held_out import check_held_out
from rl.ranks import stage as ranks
from rl.ranks.loop import PairLoop
from rl.ranks.objectives import dpo_of
from rl.ranks.rows import PairRow
from rl.rows import good_tasks, too_long, warnings_of
from workbench.chat import prompt_ids
from workbench.checkpoint import seed_everything
from workbench.distributed import group
from workbench.distributed.group import place
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import make_mesh
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.panels import PointsPanel
from workbench.records import UNKNOWN, to_json
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference
from workbench.strict_trainer import MetricsCallback, train_strictly

_NAMES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "rewards/accuracies": "pair_accuracy",
    "rewards/margins": "pair_margin",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}

_JOB = "training.json"


def run(context: StageContext) -> None:
    """Measure, then rounds of play and training, then measure again on the same tasks."""
    config: DpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    tasks, held_out = _tasks(context, config, tokenizer)
    check_held_out(tasks, held_out)
    context.progress(message="starting the engine")
    player = _player(context, config, tokenizer)
    if "held_out_before" not in context.outputs:
        context.progress(message="held-out success before")
        context.note(held_out_before=held_out_success(player, held_out, context))
    policy = context.parent_model
    for number in range(config.rounds):
        trained = _round(context, player, tokenizer, tasks, policy, number)
        if trained is None:
            break
        policy = trained
    player.engine.load_checkpoint(str(policy), version=config.rounds)
    context.progress(message="held-out success after")
    after = held_out_success(player, held_out, context)
    problems = [task.problem or task.id for task in held_out]
    found = paired_difference(
        context.outputs["held_out_before"], after, problems, what="held-out success"
    )
    context.keep(held_out_after=after, differences=[to_json(found)])
    keep_engine(context, player.engine)
    # Nothing is computed with it any more: it stays on the CPU, in the type that its training has.
    save_model(
        load_model(policy, dtype=dtype_of(config.lora)), context.stage_dir / "model", tokenizer
    )
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
    context.note(tasks=accounts)
    context.warn(*warnings_of(accounts))
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
        keep_prefix=config.history == "kept",
        episode_tokens=config.max_episode_tokens,
    )


def held_out_success(
    player: Player, tasks: Sequence[Task], context: StageContext
) -> list[float | None]:
    """Share of each task's episodes that succeed; None where all of them broke."""
    config: DpoConfig = context.config
    groups = player.play(tasks, samples=config.held_out_samples, seed=context.seed)
    out: list[float | None] = []
    for episodes in groups:
        known = [float(t.success) for t in episodes if t.success is not None]
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
    """One round; its model's folder, or None where there is nothing to learn from any more.

    rounds/NUMBER keeps the episodes and what they came to. What is only needed to continue lies in
    checkpoints/, which goes when the stage is done.
    """
    config: DpoConfig = context.config
    folder = _round_folder(context, number)
    state = context.stage_dir / "checkpoints" / f"round-{number}"
    kept = state / "pairs.json"
    if not kept.is_file():
        context.progress(message=f"round {number + 1}: playing")
        player.engine.load_checkpoint(str(policy), version=number)
        groups = player.play(tasks, samples=config.samples, seed=context.seed + number + 1)
        made, account = make_pairs(
            groups,
            per_task=config.pairs_per_task,
            row_tokens=config.row_tokens,
            seed=context.seed + number,
        )
        check_broken(groups, config.max_failed_share)
        _write_round(folder, groups, account.as_dict())
        write_json(kept, [pair.to_row() for pair in made])
    accounts = [read_json(_round_folder(context, n) / "account.json") for n in range(number + 1)]
    panels = to_json(_panels([float(account["success"]) for account in accounts]))
    context.note(rounds=accounts, panels=panels)
    if (state / "model").is_dir():
        return state / "model"
    pairs: list[dict[str, Any]] = read_json(kept)
    if not pairs:
        line = (
            f"round {number + 1}: no task has both a success and a failure "
            f"({accounts[number]['success']:.0%} of episodes succeed)"
        )
        if number == 0:
            raise UserError(f"dpo: {line}; take easier or harder tasks, or more samples")
        context.warn(f"{line}; training ended there")
        return None
    if config.distributed.on:
        write_json(context.stage_dir / _JOB, {"policy": str(policy), "round": number})
        run_workers(context, config.distributed, "rl.dpo.stage:train_worker")
        (context.stage_dir / _JOB).unlink()
    else:
        model = _train(context, tokenizer, pairs, policy, state / "trainer", number)
        save_model(model, state / "model", tokenizer)
    # Its checkpoints would lie beside those of every round.
    shutil.rmtree(state / "trainer", ignore_errors=True)
    return state / "model"


def train_worker(context: StageContext) -> None:
    """One process of several: a round's training on its share of every step."""
    config: DpoConfig = context.config
    place(config)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    job = read_json(context.stage_dir / _JOB)
    number, policy = int(job["round"]), Path(job["policy"])
    seed_everything(context.seed + number)
    state = context.stage_dir / "checkpoints" / f"round-{number}"
    folder, mesh = state / "trainer", make_mesh(config.distributed)
    objective = dpo_of(trl_config(config, folder, context.seed + number), config.trl)
    rows = [EpisodePair.of_row(row) for row in read_json(state / "pairs.json")]
    loop = PairLoop(
        ranks.policy(policy, mesh, config),
        [PairRow(pair.chosen, pair.rejected) for pair in rows],
        objective, config, context.seed + number, mesh,
    )  # fmt: skip
    about = f"round {number + 1}: {len(rows)} pairs"
    ranks.fit(context, loop, folder, _NAMES, about=about, offset=_offset(context, number))
    if group.is_first():
        write_json(_round_folder(context, number) / "steps.json", loop.step)
    ranks.save(
        loop.core.model, state / "model", parent=policy, config=config,
        tokenizer=read_tokenizer(context.parent_model),
        adapters=_round_folder(context, number) / "adapter",
    )  # fmt: skip


def _offset(context: StageContext, number: int) -> int:
    """Steps of the rounds before this one."""
    earlier = (_round_folder(context, n) / "steps.json" for n in range(number))
    return sum(int(read_json(path)) for path in earlier)


def _round_folder(context: StageContext, number: int) -> Path:
    return context.stage_dir / "rounds" / str(number)


def _panels(shares: Sequence[float]) -> list[PointsPanel]:
    """Success while playing the training tasks, round by round, once there are two."""
    if len(shares) < 2:
        return []
    return [
        PointsPanel(
            "Success while playing, before each round's training",
            [float(place) for place in range(len(shares))],
            [replace(UNKNOWN, value=share) for share in shares],
            x_names=[f"round {place + 1}" for place in range(len(shares))],
            whole=True,
        )
    ]


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
    folder: Path, groups: Sequence[Sequence[Trajectory]], account: dict[str, Any]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(t.as_row(), ensure_ascii=False) for group in groups for t in group)
    (folder / "episodes.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_json(folder / "account.json", account)


def _train(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict[str, Any]],
    policy: Path,
    folder: Path,
    number: int,
) -> Any:
    config: DpoConfig = context.config
    model = load_base(policy, config.lora, str(place(config)))
    check_isolation(model, config.precision)
    if config.lora:
        add_adapters(model, config.lora)
    offset = _offset(context, number)
    callback = MetricsCallback(
        context, _NAMES, offset=offset, about=f"round {number + 1}: {len(pairs)} pairs"
    )
    trainer = StrictDPOTrainer(
        model=model,
        args=trl_config(config, folder, context.seed + number),
        data_collator=PairCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=Dataset.from_list(
            [{k: v for k, v in p.items() if k != "task"} for p in pairs]
        ),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    train_strictly(trainer, callback, folder)
    write_json(_round_folder(context, number) / "steps.json", trainer.state.global_step)
    if config.lora:
        save_adapters(model, config.lora, _round_folder(context, number) / "adapter", str(policy))
        merge_adapters(model)
    return model
