"""TRL's DPOTrainer on pairs of isolated rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig as TrlConfig
from trl import DPOTrainer

from rl.dpo.config import DpoConfig
from workbench.errors import UserError
from workbench.strict_trainer import StrictResume


@dataclass
class PairCollator:
    """A batch of B pairs as 2B rows [2B, T]: first the chosen ones, then the rejected ones.

    Padding is a document of its own at a row's end, without loss: it reaches nobody.
    """

    pad_token_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, completion_mask, seq_idx; ref_*_logps [B] where known."""
        sides = [(p, "chosen") for p in pairs] + [(p, "rejected") for p in pairs]
        width = max(len(p[f"{name}_ids"]) for p, name in sides)
        shape = (len(sides), width)
        out = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "completion_mask": torch.zeros(shape, dtype=torch.long),
            "seq_idx": torch.zeros(shape, dtype=torch.int32),
        }
        for i, (pair, name) in enumerate(sides):
            n = len(pair[f"{name}_ids"])
            out["input_ids"][i, :n] = torch.tensor(pair[f"{name}_ids"])
            out["attention_mask"][i, :n] = 1
            out["completion_mask"][i, :n] = torch.tensor(pair[f"{name}_mask"])
            out["seq_idx"][i, :n] = torch.tensor(pair[f"{name}_seq"], dtype=torch.int32)
            out["seq_idx"][i, n:] = int(pair[f"{name}_seq"][-1]) + 1
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in pairs[0]:
                out[name] = torch.tensor([pair[name] for pair in pairs])
        return out


class StrictDPOTrainer(StrictResume, DPOTrainer):
    """DPOTrainer on rows that are ready: they must reach the model token by token as sampled."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def trl_config(config: DpoConfig, folder: Path, seed: int) -> TrlConfig:
    """TRL's configuration from ours; `config.trl` passes the rest. Raises: UserError."""
    accumulate, rest = divmod(config.pairs_per_step, config.microbatch_pairs)
    if rest:
        raise UserError(
            f"pairs_per_step ({config.pairs_per_step}) must be a multiple of microbatch_pairs "
            f"({config.microbatch_pairs})"
        )
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": config.microbatch_pairs,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": config.epochs,
        "learning_rate": config.lr,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": config.warmup_share,
        "weight_decay": 0.0,
        "max_grad_norm": config.grad_clip,
        "bf16": config.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "seed": seed,
        "data_seed": seed,
        "beta": config.beta,
        # The reference is the policy that sampled the pairs: its log-probabilities are computed
        # once, before the first step, and no second model is held.
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": config.microbatch_pairs,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every_steps,
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
    }
    try:
        return TrlConfig(**(values | config.trl))
    except (TypeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"TRL refuses the stage's options (see `trl:`): {line}") from None
