"""vLLM's log-probabilities of a tiny random hybrid of one family beside the trainer's, and a sync of other weights with its proofs: a JSON
line.

python -m tests.family_trial bamba FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from engine.config import EngineConfig
from engine.protocol import Completion, Request, Sampling
from engine.readback import Readback
from engine.vllm_engine import VllmEngine
from model.hybrid import load_model, save_model
from model.logprobs import Truncation
from model.tokenizer import train_tokenizer
from rl.sample import Rollout
from rl.update import pack, reply_logprobs
from rl.weight_sync import sent_state, sync
from tests.unit.model.test_families import EXPERTS, FALCON, GRANITE, MAMBA, NEMOTRON, SIZES, ZAMBA

# Heads of 32 values, which vLLM's attention on a CPU takes.
_WIDE: dict[str, Any] = SIZES | {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "vocab_size": 300, "max_position_embeddings": 256,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("bamba", MAMBA | _MAMBA | {"attn_layer_indices": [1]}),
    "granite, dense": ("granitemoehybrid", GRANITE | _MAMBA | {"num_local_experts": 0}),
    "granite, experts": ("granitemoehybrid", GRANITE | _MAMBA | EXPERTS),
    "falcon": ("falcon_h1", FALCON | _MAMBA | {"mamba_d_ssm": 128, "mamba_rms_norm": False}),
    "falcon, norm": ("falcon_h1", FALCON | _MAMBA | {"mamba_d_ssm": 128, "mamba_rms_norm": True, "mamba_norm_before_gate": False}),
    "zamba2": ("zamba2", ZAMBA | {"n_mamba_heads": 4, "mamba_headdim": 32, "mamba_d_state": 16, "mamba_ngroups": 1, "num_key_value_heads": 2}),
    "nemotron, experts": ("nemotron_h", NEMOTRON | {"mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32}),
}  # fmt: skip
PROMPTS = ([7, 9, 30, 31, 32, 80, 4, 9, 9, 61], [5, 6], list(range(20, 53)))


def config_of(name: str) -> Any:
    """The configuration of a case, for a vocabulary of 300."""
    family, changes = CASES[name]
    sizes = {key: value for key, value in (_WIDE | changes).items() if value is not None}
    return AutoConfig.for_model(family, **sizes)


def main(name: str, folder: Path) -> None:
    tokenizer = train_tokenizer(["a line\nof text"] * 3, 300, folder / "words")
    model = load_model(config_of(name), seed=0)
    place = save_model(model, folder / "model", tokenizer)
    how = EngineConfig(max_model_len=128, max_num_seqs=4, kv_cache_mb=64, dtype="float32")
    engine = VllmEngine(str(place), how)
    asked = Sampling(max_tokens=16, stop_token_ids=(0,))
    done = dict(engine.stream([Request(list(p), asked, seed=5) for p in PROMPTS]))
    rollouts = [_rollout(p, done[place]) for place, p in enumerate(PROMPTS)]
    with torch.no_grad():
        found, _ = reply_logprobs(model.eval(), pack(rollouts, 8192)[0], Truncation())
    said = torch.tensor([x for r in rollouts for x in r.completion.logprobs])
    worst = float((found - said).abs().max())
    synced = sync(_moved(model), engine, version=1, longest=128)
    unread = Readback(engine.live_model(), sent_state(model)).unread
    engine.close()
    assert synced.report is not None
    report = {
        "worst": worst,
        "tokens": len(said),
        "probes": synced.report.probe_error,
        "unread": [name for name in unread if ".block_sparse_moe." not in name],
    }
    print(json.dumps(report), flush=True)


def _moved(model: nn.Module) -> nn.Module:
    """Every matrix a tenth larger: what a sync that changes nothing would not pass by."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.1)
    return model


def _rollout(prompt: list[int], done: Completion) -> Rollout:
    if done.error is not None:
        raise RuntimeError(done.error)
    return Rollout(list(prompt), done, 1.0, 1.0, "ok")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
