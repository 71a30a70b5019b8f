"""TRL's DPOTrainer on pairs of isolated rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig as TrlConfig
from trl import DPOTrainer

from model.strict_resume import StrictResume
from rl.dpo.config import DpoConfig
from workbench.strict_trainer import pair_arguments


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
    own = {
        "beta": config.beta,
        # The reference is the policy that sampled the pairs: its log-probabilities are computed
        # once, before the first step, and no second model is held.
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": config.microbatch_pairs,
    }
    made: TrlConfig = pair_arguments(TrlConfig, config, folder, seed, own)
    return made
