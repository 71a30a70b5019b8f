"""Tiny twins of the recipes for one card: the recipe's own file, with a tiny random model in the hub's place
and fewer of everything. What differs is all in `TWINS`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from model.hybrid import build_config, load_model, save_model
from tests.integration.test_real_model import save_tiny_chatml
from tests.tiny import ROOT
from workbench.recipe import Recipe, load

# Of a run on two cores; every other key is the recipe's.
_RUN = {"runs_dir": "", "cluster.backend": "local"}
_GRPO = {
    # A random model has no sum right, so it is paid for something that it now and then does.
    "reward.kind": "function", "reward.function": "",
    "num_prompts": 8, "num_held_out": 4, "num_steps": 2, "prompts_per_step": 2, "group_size": 4,
    "max_tokens": 24, "engine.max_num_seqs": 16, "engine.kv_cache_mb": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Twin:
    """changes: key of a stage -> value; "" stands for what is made in the test's folder."""

    recipe: str
    changes: dict[str, Any]

    @property
    def path(self) -> Path:
        """The recipe's own file."""
        return ROOT / "recipes" / self.recipe


def _of(stage: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {f"stages.{stage}.{key}": value for key, value in changes.items()}


TWINS = {
    "one-gpu": Twin(
        "one-gpu.yaml",
        _RUN
        | _of("base", {"source.path": ""})
        | _of("grpo", _GRPO)
        | _of("grpo.validation", {"every": 1, "num_prompts": 4}),
    ),
    "nano2-9b-lora": Twin(
        "nano2-9b-lora.yaml",
        _RUN
        | _of("base", {"source.path": ""})
        | _of("sft", {"parts.mine.source.path": "", "parts.mine.samples": 40})
        | _of("grpo", _GRPO)
        | _of("curves", {
            "limit": 3, "budgets": [4, 8, 16], "max_tokens": 40, "engine.max_num_seqs": 16,
            "engine.kv_cache_mb": 64,
        }),
    ),
}  # fmt: skip


def overrides(twin: Twin, folder: Path) -> list[str]:
    """The changes as `--set` takes them, with what they name in `folder`."""
    made = {
        "runs_dir": folder / "runs",
        "stages.base.source.path": folder / "given",
        "stages.sft.parts.mine.source.path": folder / "mine.jsonl",
        "stages.grpo.reward.function": f"{folder / 'mine.py'}:score",
    }
    return [
        f"{key}={json.dumps(value) if value != '' else made[key]}"
        for key, value in twin.changes.items()
    ]


def differences(one: Any, other: Any, place: str = "") -> set[str]:
    """Dotted keys of two nested mappings that are not equal, or that one of them lacks."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return set() if one == other else {place}
    found = set[str]()
    for key in one.keys() | other.keys():
        below = f"{place}.{key}" if place else str(key)
        missing = key not in one or key not in other
        found |= {below} if missing else differences(one[key], other[key], below)
    return found


def changed(twin: Twin, folder: Path, path: Path | None = None) -> set[str]:
    """Keys in which the twin of a recipe's file (the twin's own) differs from the recipe."""
    path = path or twin.path
    return differences(_dumped(load(path)), _dumped(load(path, overrides(twin, folder))))


def _dumped(recipe: Recipe) -> dict[str, Any]:
    stages = {name: stage.model_dump(mode="json") for name, stage in recipe.stages.items()}
    return {**recipe.model_dump(mode="json"), "stages": stages}


_REWARD = '''
def score(prompt, reply, reference):
    """The share of a reply's characters that come early in the alphabet."""
    return sum(letter in "abcdefghijkl" for letter in reply) / max(len(reply), 1)
'''


def make(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Twin:
    """A twin, with all that it names in `folder`."""
    (folder / "mine.py").write_text(_REWARD, encoding="utf-8")
    llama_like(folder) if name == "one-gpu" else nemotron_h(folder, tokenizer)
    return TWINS[name]


def llama_like(folder: Path) -> None:
    """In SmolLM2's place: Llama's layers, a tied head, ChatML; sizes that vLLM's CPU attention takes."""
    save_tiny_chatml(folder / "given", hidden_size=64, num_attention_heads=2, num_key_value_heads=1)


def nemotron_h(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """In the 9B's place: a layer of each of its kinds, and conversations with traces."""
    torch.manual_seed(0)
    sizes = {"pattern": "M*-", "hidden_size": 64, "vocab_size": len(tokenizer)}
    save_model(load_model(build_config("miniature", **sizes)), folder / "given", tokenizer)
    rows = [
        {
            "id": f"sum-{n}",
            "messages": [
                {"role": "user", "content": f"What is {n} + {n}?"},
                {
                    "role": "assistant", "reasoning_content": f"Two times {n} is {2 * n}.\n",
                    "content": f"{2 * n}",
                },
            ],
        }
        for n in range(40)
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "mine.jsonl").write_text(lines, encoding="utf-8")
