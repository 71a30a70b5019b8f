"""Preferences on ranks: losses are TRL's, and every layout computes what one process does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, KTOConfig, RewardConfig

from model.hybrid import load_model
from model.lora import add_adapters
from model.lora_config import LoraConfig
from model.tokenizer import train_tokenizer
from reward.score_model import ScoreModel
from rl.dpo.pairs import EpisodePair, Side
from rl.dpo.trainer import PairCollator, StrictDPOTrainer
from rl.preference.stage import StrictKTOTrainer
from rl.ranks.loop import PairLoop
from rl.ranks.losses import DPO_LOSSES, DpoSettings
from rl.ranks.objectives import Dpo, Kto, PairScores
from rl.ranks.rows import SCORE_HEAD, PairRow
from rl.ranks.stage import policy
from rl.reward_model.stage import ScoreCollator, StrictRewardTrainer
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh
from workbench.strict_trainer import pair_arguments

BETA = 0.3


class Section:
    """The fields of a stage on pairs."""

    pairs_per_step, microbatch_pairs, epochs, lr = 4, 2, 2.0, 1e-3
    warmup_share, grad_clip, precision, threads = 0.3, 1.0, "fp32", 1
    checkpoint_every_steps, keep_checkpoints, trl = 100, 0, dict[str, Any]()
    activations = "checkpoint"
    lora: LoraConfig | None = None


class Adapted(Section):
    lora = LoraConfig(rank=2, alpha=4.0)
    activations = "keep"


def side(made: torch.Generator) -> Side:
    """A side of one to three documents, each a prompt and a reply."""
    ids, mask, seq = list[int](), list[int](), list[int]()
    for number in range(int(torch.randint(1, 4, (1,), generator=made))):
        before, after = (int(n) for n in torch.randint(2, 9, (2,), generator=made))
        ids += torch.randint(3, 65, (before + after,), generator=made).tolist()
        mask += [0] * before + [1] * after
        seq += [number] * (before + after)
    return Side(ids, mask, seq)


def pairs(count: int) -> list[PairRow]:
    made = torch.Generator().manual_seed(count)
    return [PairRow(side(made), side(made), 0.1 * number) for number in range(count)]


def plain(made: Side) -> Side:
    """The first document alone, as KTO and reward models have sides."""
    length = made.seq_idx.count(0)
    return Side(made.input_ids[:length], made.mask[:length], [0] * length)


def labelled(count: int, size: int) -> list[PairRow]:
    """Replies, each mismatched with the reply before it in its microbatch, as KTO's stage has it."""
    rows = [plain(row.first) for row in pairs(count)]
    out = []
    for start in range(0, count, size):
        part = rows[start : start + size]
        for place, (own, other) in enumerate(zip(part, [part[-1], *part[:-1]], strict=True)):
            first, said = own.mask.index(1), other.mask.index(1)
            ids = [*own.input_ids[:first], *other.input_ids[said:]]
            mask = [0] * first + [1] * (len(ids) - first)
            out.append(
                PairRow(own, Side(ids, mask, [0] * len(ids)), float((start + place) % 3 > 0))
            )
    return out


def objective(kind: str) -> Any:
    if kind == "kto":
        return Kto(beta=BETA, good_weight=1.0, bad_weight=1.5, anchored=True)
    if kind == "score":
        return PairScores(0.01)
    return Dpo(DpoSettings(("sigmoid", "sft", "aot"), (1.0, 0.2, 0.5), BETA, 0.1))


def rows_of(kind: str) -> list[PairRow]:
    if kind == "kto":
        return labelled(11, 2)
    if kind == "score":
        return [PairRow(plain(r.first), plain(r.second), r.about) for r in pairs(11)]
    return pairs(11)


def test_losses_are_trls(folder: Path, tmp_path: Path) -> None:
    """Each of TRL's DPO losses, its KTO and its reward loss, of one microbatch against ours on packed rows."""
    words = train_tokenizer(["a line of text\n"] * 3, 300, tmp_path / "words")
    rows = pairs(4)
    pair_rows = [
        {f"{n}_{k}": getattr(s, f)
         for n, s in (("chosen", r.first), ("rejected", r.second))
         for k, f in (("ids", "input_ids"), ("mask", "mask"), ("seq", "seq_idx"))}
        for r in rows
    ]  # fmt: skip
    shared: dict[str, Any] = {
        "output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "max_length": None,
        "beta": BETA, "precompute_ref_log_probs": True, "per_device_train_batch_size": 4,
        "remove_unused_columns": False, "gradient_checkpointing": False, "bf16": False,
    }  # fmt: skip
    trainer: Any = StrictDPOTrainer(
        model=load_model(folder), args=DPOConfig(**shared), data_collator=PairCollator(0),
        train_dataset=Dataset.from_list(pair_rows), processing_class=words,
    )  # fmt: skip
    model = trainer.model.train()
    (batch,) = trainer.get_train_dataloader()
    order = [
        pair_rows.index({k: v for k, v in r.items() if "logps" not in k})
        for r in trainer.train_dataset
    ]
    assert order == [0, 1, 2, 3]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    first = torch.tensor(
        [[r["ref_chosen_logps"], r["ref_rejected_logps"]] for r in trainer.train_dataset]
    )
    trainer.label_smoothing, trainer.loss_weights = 0.1, [0.7]
    for name in DPO_LOSSES:
        trainer.loss_types = [name]
        theirs = trainer.compute_loss(model, dict(batch))
        far = 5e-4 if name == "discopop" else 2e-5  # exp of 20 times the gap
        settings = DpoSettings((name,), (0.7,), BETA, 0.1)
        ours, _ = Dpo(settings).loss(model, rows, first, torch.zeros(4))
        assert float(ours) == pytest.approx(float(theirs), rel=2e-6), name
        theirs.backward()
        wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        ours.backward()
        assert tiny.apart({n: p.grad for n, p in model.named_parameters()}, wanted) < far, name
        model.zero_grad(set_to_none=True)


class Steps(TrainerCallback):
    """What TRL logs of each step."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.found.append(logs)


def pair_columns(row: PairRow) -> dict[str, Any]:
    return EpisodePair("", row.first, row.second).to_row()


def trls(kind: str, model: Any, rows: list[PairRow], folder: Path, words: Any, steps: Steps) -> Any:
    """TRL's trainer of the same rows, as the stages in one process make it."""
    options: dict[str, Any] = {
        "dpo": {"beta": BETA, "loss_type": ["sigmoid", "sft", "aot"], "loss_weights": [1.0, 0.2, 0.5],
                "label_smoothing": 0.1, "precompute_ref_log_probs": True},
        "kto": {"beta": BETA, "undesirable_weight": 1.5, "precompute_ref_log_probs": True},
        "score": {"center_rewards_coefficient": 0.01},
    }[kind]  # fmt: skip
    configs = {"dpo": DPOConfig, "kto": KTOConfig, "score": RewardConfig}
    args = pair_arguments(configs[kind], Section(), folder, 7, options)
    shared: dict[str, Any] = {
        "args": args, "processing_class": words, "callbacks": [steps], "model": model,
    }  # fmt: skip
    if kind == "dpo":
        data = [{k: v for k, v in pair_columns(row).items() if k != "task"} for row in rows]
        return StrictDPOTrainer(
            data_collator=PairCollator(0), train_dataset=Dataset.from_list(data), **shared
        )
    if kind == "kto":
        data = [
            {"prompt_ids": row.first.input_ids[: row.first.mask.index(1)],
             "completion_ids": row.first.input_ids[row.first.mask.index(1) :],
             "label": row.about > 0}
            for row in rows
        ]  # fmt: skip
        return StrictKTOTrainer(train_dataset=Dataset.from_list(data), **shared)
    data = [
        {"chosen_ids": r.first.input_ids, "rejected_ids": r.second.input_ids, "margin": r.about}
        for r in rows
    ]
    return StrictRewardTrainer(
        data_collator=ScoreCollator(0), train_dataset=Dataset.from_list(data), **shared
    )


@pytest.mark.parametrize("kind", ["dpo", "kto", "score"])
def test_training_is_trls(folder: Path, tmp_path: Path, kind: str) -> None:
    """Two epochs of eleven rows, four a step: loss, norm and rate of six steps, and the weights."""
    words = train_tokenizer(["a line of text\n"] * 3, 300, tmp_path / "words")
    steps, rows = Steps(), rows_of(kind)
    torch.manual_seed(5)
    model = load_model(folder)
    trainer = trls(
        kind, ScoreModel(model) if kind == "score" else model, rows, tmp_path, words, steps
    )
    trainer.train()
    wanted = {n.removeprefix("causal."): p.detach() for n, p in trainer.model.named_parameters()}
    if kind == "score":
        wanted[f"{SCORE_HEAD}.weight"] = wanted.pop("head.weight")
    found, _, weights = trained(folder, kind, Section, None)
    for ours, theirs in zip(found, steps.found, strict=True):
        for name, trl in (("loss", "loss"), ("grad_norm", "grad_norm"), ("lr", "learning_rate")):
            assert ours[name] == pytest.approx(float(theirs[trl]), rel=2e-4, abs=1e-7), name
    wanted = {n: t for n, t in wanted.items() if n in weights and bool(weights[n].any())}
    assert tiny.apart({n: weights[n] for n in wanted}, wanted) < 1e-5


def one_model(folder: Path, kind: str, section: Any) -> Any:
    torch.manual_seed(5)
    model = load_model(folder)
    if kind == "score":
        setattr(model, SCORE_HEAD, ScoreModel(model).head)
    return add_adapters(model, section.lora) if section.lora else model


def trained(folder: Path, kind: str, section: Any, where: DistributedConfig | None) -> Any:
    """Metrics of six steps, the first step's gradients, and the weights."""
    mesh = make_mesh(where) if where else None
    if mesh:
        torch.manual_seed(5)
        model = policy(folder, mesh, section, head=kind == "score")
    else:
        model = one_model(folder, kind, section)
    loop = PairLoop(model.train(), rows_of(kind), objective(kind), section, 7, mesh)
    gradients: dict[str, torch.Tensor] = {}
    clip = loop.core.clip

    def seen(largest: float, **told: Any) -> float:
        if not gradients:
            named = loop.core.model.named_parameters()
            gradients.update(
                {n: tiny.whole(p.grad).clone() for n, p in named if p.grad is not None}
            )
        return clip(largest, **told)

    loop.core.clip = seen  # type: ignore[method-assign]
    found = [loop.train_step() for _ in range(loop.order.num_steps)]
    return found, gradients, tiny.weights(loop.core)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


CASES = [("dpo", Section), ("kto", Section), ("score", Section), ("dpo", Adapted)]


@pytest.mark.parametrize(("kind", "section"), CASES)
def test_a_layout_equals_one_process(folder: Path, kind: str, section: Any) -> None:
    metrics, gradients, weights = trained(folder, kind, section, None)
    assert len(metrics) == 6
    for where in (tiny.layout(2), tiny.layout(2, context=2)):
        for found in on_ranks(2, trained, folder, kind, section, where):
            for ours, theirs in zip(found[0], metrics, strict=True):
                # Rewards are small gaps of large sums.
                assert ours == pytest.approx(theirs, rel=1e-5, abs=2e-6)
            # An adapter's B is 0 at first, and so is A's gradient; a score does not read the output layer.
            moved = {name for name, gradient in gradients.items() if bool(gradient.any())}
            assert {n for n, g in found[1].items() if bool(g.any())} == moved
            assert len(moved) == 8 if section.lora else len(moved) >= 26
            assert tiny.apart(*({n: g[n] for n in moved} for g in (found[1], gradients))) < 1e-6
            filled = [
                name for name in weights if bool(weights[name].any())
            ]  # a frozen bias may be 0
            assert tiny.apart(*({n: w[n] for n in filled} for w in (found[2], weights))) < 5e-6
