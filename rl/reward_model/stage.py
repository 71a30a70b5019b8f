"""Stage kind `reward_model`: replies, pairs, training, and the accuracy on held-out pairs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig as TrlConfig
from trl import RewardTrainer

from engine.protocol import Sampling
from engine.remote import start_engine
from model.layers.isolation import check_isolation
from model.lora import add_adapters, load_base, merge_adapters, save_adapters
from model.strict_resume import StrictResume
from model.tokenizer import read_tokenizer
from reward import must_be_checkable
from reward.score_model import ScoreModel, collate, save_score_model, score_rows
from rl.engine_account import tell_restarts
from rl.held_out import check_held_out
from rl.preference.validation import margin_estimates
from rl.ranks import stage as ranks
from rl.ranks.loop import PairLoop
from rl.ranks.objectives import scores_of
from rl.ranks.rows import PairRow, reply_side
from rl.reward_model.config import RewardModelConfig
from rl.reward_model.given import further_of, given_data
from rl.reward_model.pairs import make_pairs, sample
from rl.rows import Rules, take_rows, too_long, warnings_of
from workbench.chat import prompt_ids
from workbench.checkpoint import seed_everything
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import make_mesh
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.records import Difference, Estimate, to_json
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference
from workbench.strict_trainer import MetricsCallback, pair_arguments, train_strictly
from workbench.validation import Validation

_NAMES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "accuracy": "pair_accuracy",
    "margin": "pair_margin",
}


def run(context: StageContext) -> None:
    """Sample and pair once, train, measure on the held-out pairs, save."""
    config: RewardModelConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    data = _data(context, tokenizer)
    accounts = {name: part["account"] for name, part in data.items()}
    context.note(pairs=accounts)
    context.warn(
        *warnings_of({name: account.get("prompts", {}) for name, account in accounts.items()})
    )
    if config.distributed.on:
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "rl.reward_model.stage:train_worker")
        return
    seed_everything(context.seed)  # the head starts from the same draws after a resume
    place = group.place(config)
    causal = load_base(context.parent_model, config.lora, str(place))
    model = ScoreModel(causal).to(place)
    check_isolation(model.causal, config.precision)
    if config.lora:
        add_adapters(model.causal, config.lora)
    held_out = data["held_out"]["rows"]
    before = pair_values(model, held_out, tokenizer)
    validation = _validation(context, data, lambda rows: pair_margins(model, rows, tokenizer))
    _train(context, model, tokenizer, data["train"]["rows"], validation)
    after = pair_values(model.eval(), held_out, tokenizer)
    context.keep(differences=[to_json(pair_accuracy(held_out, before, after))])
    if config.lora:
        folder = context.stage_dir / "adapter"
        save_adapters(model.causal, config.lora, folder, str(context.parent_model))
        merge_adapters(model.causal)
    shutil.rmtree(context.stage_dir / "model", ignore_errors=True)
    save_score_model(model, context.stage_dir / "model", tokenizer)


def train_worker(context: StageContext) -> None:
    """One process of several: the same training on its share of every step, and of the held-out pairs."""
    config: RewardModelConfig = context.config
    group.place(config)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    data = read_json(context.stage_dir / "pairs.json")
    held_out, mesh = data["held_out"]["rows"], make_mesh(config.distributed)
    model = ranks.policy(context.parent_model, mesh, config, head=True)
    folder = context.stage_dir / "checkpoints"
    objective = scores_of(trl_config(config, folder, context.seed), config.trl)
    rows = as_rows(data["train"]["rows"])
    loop = PairLoop(model, rows, objective, config, context.seed, mesh)
    before = in_order(_margins_of(loop, held_out))
    loop.validation = _validation(context, data, lambda rows: _margins_of(loop, rows))
    ranks.fit(context, loop, folder, _NAMES, about="reward model")
    found = pair_accuracy(held_out, before, in_order(_margins_of(loop, held_out)))
    context.keep(differences=[to_json(found)])
    ranks.save(
        model, context.stage_dir / "model", parent=context.parent_model, config=config,
        tokenizer=read_tokenizer(context.parent_model), adapters=context.stage_dir / "adapter",
        head=True,
    )  # fmt: skip


def as_rows(rows: Sequence[dict[str, Any]]) -> list[PairRow]:
    """The pairs for the core: what is scored has no reply of its own."""
    return [
        PairRow(
            reply_side(r["chosen_ids"], []), reply_side(r["rejected_ids"], []), r.get("margin", 0.0)
        )
        for r in rows
    ]


def _margins_of(loop: PairLoop, rows: Sequence[dict[str, Any]]) -> list[float]:
    """As `pair_margins`, in every process."""
    scores = loop.values([side for row in as_rows(rows) for side in (row.first, row.second)])
    return [float(better - worse) for better, worse in scores.view(-1, 2)]


def _data(context: StageContext, tokenizer: Any) -> dict[str, Any]:
    """The pairs of both sets, sampled once and kept for a resume."""
    config: RewardModelConfig = context.config
    path = context.stage_dir / "pairs.json"
    if path.is_file():
        kept: dict[str, Any] = read_json(path)
        return kept
    if config.given:
        data = given_data(config, tokenizer, context.seed)
        write_json(path, data)
        return data
    modes = [mode == "with" for mode in config.thinking]
    asked, accounts = _questions(config, modes, tokenizer, context.seed)
    must_be_checkable(question.check for questions in asked.values() for question in questions)
    check_held_out(asked["train"], [q for name in asked if name != "train" for q in asked[name]])
    context.progress(message="sampling replies")
    engine = start_engine(context.parent_model, config.engine)
    sampling = Sampling(
        max_tokens=config.max_tokens, n=config.samples, temperature=config.temperature
    )
    data = {}
    for name, questions in asked.items():
        replies = sample(engine, tokenizer, questions, modes, sampling, seed=context.seed)
        rows, account = make_pairs(
            replies,
            per_prompt=config.pairs_per_prompt,
            row_tokens=config.row_tokens,
            seed=context.seed,
        )
        _check(name, account, config)
        data[name] = {"rows": rows, "account": account | {"prompts": accounts[name]}}
    tell_restarts(context, engine)
    engine.close()
    write_json(path, data)
    return data


def _questions(
    config: RewardModelConfig, modes: Sequence[bool], tokenizer: Any, seed: int
) -> tuple[dict[str, list[Conversation]], dict[str, dict[str, Any]]]:
    """The prompts of both sets, each of which can be asked in every mode and checked; the accounts."""

    def fits(question: Conversation) -> str:
        sizes = [
            len(prompt_ids(question.prompt, question.tools, on, tokenizer=tokenizer))
            for on in modes
        ]
        return too_long(max(sizes), config.max_tokens, config.engine.max_model_len)

    rules = Rules(True, config.skip_bad, fits=fits)
    train, account = take_rows(config.prompts, config.num_prompts, rules, name="prompts", seed=seed)
    more = config.validation.num_rows if config.validation else 0
    taken, kept = take_rows(
        config.held_out, config.num_held_out + more, rules, name="held_out", seed=seed
    )
    asked = {"train": train, "held_out": taken[: config.num_held_out]}
    if more:
        asked["validation"] = further_of(taken, config.num_held_out, more)
    return asked, {"train": account, "held_out": kept, "validation": {}}


def _check(name: str, account: dict[str, Any], config: RewardModelConfig) -> None:
    if account["undecided"] > config.max_failed_share * account["replies"]:
        raise RuntimeError(
            f"{account['undecided']} of {account['replies']} replies could not be sampled or "
            f"checked; the limit max_failed_share is {config.max_failed_share:.0%}"
        )
    if not account["pairs"]:
        raise UserError(
            f"reward_model: no {name} prompt has replies of different value (mean "
            f"{account['mean_value']:.2f}); take easier or harder prompts, or more samples"
        )


def _validation(
    context: StageContext,
    data: dict[str, Any],
    margins: Callable[[Sequence[dict[str, Any]]], list[float]],
) -> Validation:
    """Loss and accuracy on the pairs of further prompts. margins: of pairs as the model is, in every process."""
    config: RewardModelConfig = context.config
    if config.validation is None:
        return Validation()
    rows = data["validation"]["rows"]
    prompts = [row["prompt"] for row in rows]

    def measure() -> dict[str, Estimate]:
        if group.is_first():
            context.progress(message="validation")
        return margin_estimates(margins(rows), prompts)

    return Validation(
        config.validation, measure, by=config.validation.by, note=group.first_notes(context)
    )


def pair_margins(model: ScoreModel, rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[float]:
    """Of each pair the better conversation's score minus that of the worse."""
    was_training, pad = model.training, int(tokenizer.pad_token_id or 0)
    model.eval()
    better = score_rows(model, [r["chosen_ids"] for r in rows], pad_token_id=pad)
    worse = score_rows(model, [r["rejected_ids"] for r in rows], pad_token_id=pad)
    model.train(was_training)
    return [b - w for b, w in zip(better, worse, strict=True)]


def pair_values(model: ScoreModel, rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[float]:
    """Of each pair: 1 where the better conversation scores higher, 0.5 for a tie, else 0."""
    return in_order(pair_margins(model, rows, tokenizer))


def in_order(margins: Sequence[float]) -> list[float]:
    """1 where the better one is ahead, 0.5 for a tie, else 0."""
    return [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins]


def pair_accuracy(
    rows: Sequence[dict[str, Any]], before: Sequence[float], after: Sequence[float]
) -> Difference:
    """Share of pairs that are in order, untrained and trained; intervals are clustered by prompt."""
    prompts = [r["prompt"] for r in rows]
    what = "better reply of a held-out pair scores higher"
    unit = f"pairs of {len(set(prompts))} prompts"
    return paired_difference(before, after, prompts, what=what, unit=unit)


@dataclass
class ScoreCollator:
    """B pairs as 2B rows: first the chosen conversations, then the rejected ones."""

    pad_token_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, seq_idx [2B, T]; margin [B] where pairs have one."""
        rows = [p["chosen_ids"] for p in pairs] + [p["rejected_ids"] for p in pairs]
        out = collate(rows, self.pad_token_id)
        if "margin" in pairs[0]:
            out["margin"] = torch.tensor([p["margin"] for p in pairs], dtype=torch.float)
        return out


class StrictRewardTrainer(StrictResume, RewardTrainer):
    """RewardTrainer on rows that are ready."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the folder is a checkpoint to resume from, not a model to publish."""


def _train(
    context: StageContext,
    model: ScoreModel,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    validation: Validation,
) -> None:
    config: RewardModelConfig = context.config
    folder = context.stage_dir / "checkpoints"
    callback = MetricsCallback(context, _NAMES, about="reward model", validation=validation)
    columns = [c for c in ("chosen_ids", "rejected_ids", "margin") if c in rows[0]]
    trainer = StrictRewardTrainer(
        model=model,
        args=trl_config(config, folder, context.seed),
        data_collator=ScoreCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=Dataset.from_list([{k: r[k] for k in columns} for r in rows]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    train_strictly(trainer, callback, folder)


def trl_config(config: RewardModelConfig, folder: Path, seed: int) -> TrlConfig:
    """TRL's configuration from ours; `config.trl` passes the rest. Raises: UserError."""
    made: TrlConfig = pair_arguments(TrlConfig, config, folder, seed, {})
    return made
