"""Stage kinds `offline_dpo` and `kto`: given preferences in, a policy out, measured before and after."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, KTOConfig, KTOTrainer

from model.hybrid import save_model
from model.layers.isolation import check_isolation
from model.lora import add_adapters, load_base, merge_adapters, save_adapters
from model.strict_resume import StrictResume
from model.tokenizer import read_tokenizer
from rl.dpo.pairs import EpisodePair, Side
from rl.dpo.trainer import PairCollator, StrictDPOTrainer
from rl.held_out import check_held_out
from rl.preference.config import KtoConfig, OfflineDpoConfig, PreferenceConfig
from rl.preference.rows import as_conversations, counts, labelled_rows, pair_rows, take_given
from rl.preference.validation import margin_estimates, must_be_two
from rl.ranks import stage as ranks
from rl.ranks.loop import PairLoop
from rl.ranks.objectives import dpo_of, kto_of
from rl.ranks.rows import PairRow, pack_sides, reply_side, side_logps
from rl.rows import warnings_of
from workbench.checkpoint import seed_everything
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import make_mesh
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.records import Estimate, to_json
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference
from workbench.strict_trainer import MetricsCallback, pair_arguments, train_strictly
from workbench.validation import Validation

_NAMES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "kl": "kl",
    "rewards/accuracies": "pair_accuracy",
    "rewards/margins": "pair_margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}
Rows = list[dict[str, Any]]
Logps = dict[str, list[float]]
_FILE = "rows.json"


def run(context: StageContext) -> None:
    """Read and render, measure, train, measure again on the same rows, save."""
    config: PreferenceConfig = context.config
    tokenizer = _begin(context)
    context.progress(message="reading data")
    train, held_out, further = _rows(context, tokenizer)
    if config.distributed.on:
        # Built once, here.
        rows = {"train": train, "held_out": held_out, "validation": further}
        write_json(context.stage_dir / _FILE, rows)
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "rl.preference.stage:train_worker")
        (context.stage_dir / _FILE).unlink()
        return
    model = load_base(context.parent_model, config.lora, str(group.device()))
    check_isolation(model, config.precision)
    if config.lora:
        add_adapters(model, config.lora)
    context.progress(message="held-out preferences before")
    before = held_out_logps(model, held_out)
    validation = _validation(context, further, lambda: held_out_logps(model, further))
    _train(context, model, tokenizer, train, validation)
    after = held_out_logps(model, held_out)
    context.keep(differences=to_json(list(differences(held_out, before, after))))
    if config.lora:
        folder = context.stage_dir / "adapter"
        save_adapters(model, config.lora, folder, str(context.parent_model))
        merge_adapters(model)
    save_model(model, context.stage_dir / "model", tokenizer)


def _begin(context: StageContext) -> Any:
    keep_freed_memory()
    torch.set_num_threads(context.config.threads)
    seed_everything(context.seed)
    return read_tokenizer(context.parent_model)


def train_worker(context: StageContext) -> None:
    """One process of several: the same training on its share of every step, and of the held-out rows."""
    config: PreferenceConfig = context.config
    group.place(config)
    tokenizer = _begin(context)
    held: dict[str, Rows] = read_json(context.stage_dir / _FILE)
    mesh = make_mesh(config.distributed)
    model = ranks.policy(context.parent_model, mesh, config)
    folder = context.stage_dir / "checkpoints"
    if isinstance(config, OfflineDpoConfig):
        objective: Any = dpo_of(dpo_arguments(config, folder, context.seed), config.trl)
    else:
        assert isinstance(config, KtoConfig)
        objective = kto_of(kto_arguments(config, folder, context.seed), config.trl)
    size = config.microbatch_pairs
    loop = PairLoop(model, as_rows(held["train"], size), objective, config, context.seed, mesh)
    before = _logps_of(loop, held["held_out"])
    further = held["validation"]
    loop.validation = _validation(context, further, lambda: _logps_of(loop, further))
    ranks.fit(context, loop, folder, _NAMES, about=f"{len(held['train'])} rows")
    after = _logps_of(loop, held["held_out"])
    context.keep(differences=to_json(list(differences(held["held_out"], before, after))))
    ranks.save(
        model, context.stage_dir / "model", parent=context.parent_model, config=config,
        tokenizer=tokenizer, adapters=context.stage_dir / "adapter",
    )  # fmt: skip


def _logps_of(loop: PairLoop, rows: Rows) -> Logps:
    """As `held_out_logps`, in every process."""
    return {name: loop.values(sides).tolist() for name, sides in sides_of(rows).items()}


def sides_of(rows: Rows) -> dict[str, list[Side]]:
    """chosen and rejected of pairs, or the one reply of labelled rows, each with its prompt."""
    made = as_rows(rows, 1)
    if "label" in rows[0]:
        return {"reply": [row.first for row in made]}
    return {"chosen": [row.first for row in made], "rejected": [row.second for row in made]}


def as_rows(rows: Rows, size: int) -> list[PairRow]:
    """The rows of either form for the core. size: replies in a microbatch, within which KTO's are turned."""
    if "label" not in rows[0]:
        pairs = [EpisodePair.of_row({"task": row["prompt"], **row}) for row in rows]
        return [PairRow(pair.chosen, pair.rejected) for pair in pairs]
    said = turned([row["completion_ids"] for row in rows], size)
    return [
        PairRow(
            reply_side(row["prompt_ids"], row["completion_ids"]),
            reply_side(row["prompt_ids"], other),
            float(row["label"]),
        )
        for row, other in zip(rows, said, strict=True)
    ]


def _rows(context: StageContext, tokenizer: Any) -> tuple[Rows, Rows, Rows]:
    """The rows to train on, to measure before and after and to validate by, with their account in the
    manifest."""
    config: PreferenceConfig = context.config
    make: Callable[..., tuple[Rows, int]] = pair_rows if config.form == "pairs" else labelled_rows
    taken, made, accounts = {}, {}, {}
    more = config.validation.num_rows if config.validation else 0
    for name, source, count in (
        ("source", config.source, config.samples),
        ("held_out", config.held_out, config.num_held_out + more),
    ):
        given, accounts[name] = take_given(
            source, count, skip_bad=config.skip_bad, name=name, seed=context.seed
        )
        rows, longer = make(
            given, tokenizer, thinking=config.thinking, row_tokens=config.row_tokens
        )
        if not rows:
            raise UserError(
                f"{name}: all {longer:,} rows are longer than row_tokens {config.row_tokens:,}; raise it"
            )
        accounts[name] |= {"dropped_longer": longer, "used": len(rows)}
        if config.form == "labelled":
            accounts[name]["labels"] = counts([row["label"] for row in rows])
        taken[name], made[name] = given, rows
    check_held_out(as_conversations(taken["source"]), as_conversations(taken["held_out"]))
    warnings = warnings_of(accounts) + [
        f"{name}: {account['dropped_longer']:,} rows are longer than row_tokens and were left out"
        for name, account in accounts.items()
        if account["dropped_longer"]
    ]
    context.note(rows=accounts)
    context.warn(*warnings)
    held_out, further = made["held_out"], Rows()
    if more:
        held_out, further = _disjoint(held_out, config.num_held_out)
        must_be_two(further, more)
    return made["source"], held_out, further


def _disjoint(rows: Rows, count: int) -> tuple[Rows, Rows]:
    """The first `count` rows, and those behind them that ask none of their prompts."""
    asked = {row["prompt"] for row in rows[:count]}
    return rows[:count], [row for row in rows[count:] if row["prompt"] not in asked]


def _validation(context: StageContext, rows: Rows, logps: Callable[[], Logps]) -> Validation:
    """beta times how far training moved a pair apart (a reply, the way of its label), on the further rows.

    logps: of those rows as the model is, in every process. The weights are still those of the parent.
    """
    config: PreferenceConfig = context.config
    if config.validation is None:
        return Validation()
    before = logps()
    prompts = [row["prompt"] for row in rows]

    def measure() -> dict[str, Estimate]:
        if group.is_first():
            context.progress(message="validation")
        margins = moved(rows, before, logps())
        return margin_estimates([config.beta * margin for margin in margins], prompts)

    return Validation(
        config.validation, measure, by=config.validation.by, note=group.first_notes(context)
    )


def moved(rows: Rows, before: dict[str, list[float]], now: dict[str, list[float]]) -> list[float]:
    """Nats by which each pair's sides moved apart, or each reply the way of its label."""
    if "reply" in now:
        signs = [1.0 if row["label"] else -1.0 for row in rows]
        found = zip(signs, before["reply"], now["reply"], strict=True)
        return [sign * (b - a) for sign, a, b in found]
    gaps = [
        [c - r for c, r in zip(side["chosen"], side["rejected"], strict=True)]
        for side in (before, now)
    ]
    return [b - a for a, b in zip(*gaps, strict=True)]


@torch.no_grad()
def held_out_logps(model: Any, rows: Rows) -> Logps:
    """The log-probability of each row's replies, by side: chosen and rejected of pairs, or the one reply. One
    reply at a time, in slices of logits (model.logprobs)."""
    was_training = model.training
    model.eval()
    found = {
        name: [float(side_logps(model, pack_sides([side]))) for side in sides]
        for name, sides in sides_of(rows).items()
    }
    model.train(was_training)
    return found


def differences(rows: Rows, before: dict[str, list[float]], after: dict[str, list[float]]) -> Any:
    """What training changed on held-out rows; intervals are clustered by prompt.

    Pairs: how often the chosen reply is likelier than the rejected one, and how often training moved
    the two apart in the right direction. Labelled: how often a reply went the way of its label. Where
    nothing moved it counts as half.
    """
    prompts = [row["prompt"] for row in rows]
    unit = f"rows of {len(set(prompts))} prompts"
    half = [0.5] * len(rows)
    if "reply" in after:
        moved = [
            _share((a - b) if row["label"] else (b - a))
            for row, b, a in zip(rows, before["reply"], after["reply"], strict=True)
        ]
        what = "held-out reply became likelier where it is good, less likely where it is bad"
        yield paired_difference(half, moved, prompts, what=what, unit=unit)
        return
    gaps = [
        [c - r for c, r in zip(side["chosen"], side["rejected"], strict=True)]
        for side in (before, after)
    ]
    apart = [_share(a - b) for b, a in zip(*gaps, strict=True)]
    what = "chosen reply of a held-out pair gained on the rejected one"
    yield paired_difference(half, apart, prompts, what=what, unit=unit)
    old, new = ([_share(gap) for gap in side] for side in gaps)
    what = "chosen reply of a held-out pair is the likelier one"
    yield paired_difference(old, new, prompts, what=what, unit=unit)


def _share(gap: float) -> float:
    return 1.0 if gap > 0 else 0.0 if gap < 0 else 0.5


def _train(
    context: StageContext, model: Any, tokenizer: Any, rows: Rows, validation: Validation
) -> None:
    config: PreferenceConfig = context.config
    folder = context.stage_dir / "checkpoints"
    callback = MetricsCallback(context, _NAMES, about=f"{len(rows)} rows", validation=validation)
    data = Dataset.from_list([{k: v for k, v in row.items() if k != "prompt"} for row in rows])
    shared: dict[str, Any] = {
        "model": model.train(),
        "train_dataset": data,
        "processing_class": tokenizer,
        "callbacks": [callback],
    }
    if isinstance(config, OfflineDpoConfig):
        collator = PairCollator(int(tokenizer.pad_token_id or 0))
        args = dpo_arguments(config, folder, context.seed)
        trainer: Any = StrictDPOTrainer(args=args, data_collator=collator, **shared)
    else:
        assert isinstance(config, KtoConfig)
        trainer = StrictKTOTrainer(args=kto_arguments(config, folder, context.seed), **shared)
    train_strictly(trainer, callback, folder)


class StrictKTOTrainer(StrictResume, KTOTrainer):
    """KTOTrainer on rows that are ready."""

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: Any, *rest: Any
    ) -> Dataset:
        """Each microbatch's replies behind one another's prompts, whose drift is the loss's zero."""
        if not self.calculate_KL:
            return dataset
        size, replies = args.per_device_train_batch_size, dataset["completion_ids"]
        return dataset.add_column("KL_completion_ids", turned(replies, size))


def turned(replies: Sequence[list[int]], size: int) -> list[list[int]]:
    """Of each reply the one before it in its microbatch of `size`; of a microbatch's first the last."""
    parts = [list(replies[at : at + size]) for at in range(0, len(replies), size)]
    return [reply for part in parts for reply in [part[-1], *part[:-1]]]


def dpo_arguments(config: OfflineDpoConfig, folder: Path, seed: int) -> Any:
    """TRL's configuration from ours; `config.trl` passes the rest. Raises: UserError."""
    own = {
        "beta": config.beta,
        "loss_type": [config.loss] if isinstance(config.loss, str) else list(config.loss),
        "label_smoothing": config.label_smoothing,
        # The reference is the policy that the stage starts from; no second model is held.
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": config.microbatch_pairs,
    }
    return pair_arguments(DPOConfig, config, folder, seed, own)


def kto_arguments(config: KtoConfig, folder: Path, seed: int) -> Any:
    """As `dpo_arguments`, of KTO."""
    own = {
        "beta": config.beta,
        "loss_type": config.loss,
        "desirable_weight": config.good_weight,
        "undesirable_weight": config.bad_weight,
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": config.microbatch_pairs,
    }
    return pair_arguments(KTOConfig, config, folder, seed, own)
