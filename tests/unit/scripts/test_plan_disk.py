"""What a run writes to the disk, as a plan says it, by hand."""

from typing import Any

from model import cost
from model.presets import shape
from model.sizes import parameters
from scripts.plan_disk import with_disk
from workbench.graph.dag import Decision
from workbench.graph.plan import RunPlan
from workbench.recipe import build
from workbench.registry import kind, resolve

_WORLD = {"type": "world", "domain": "math"}
_HOUSE = {"type": "house"}
_BLEND = {
    "sources": {"math": {"type": "pretraining", "category": "math"}},
    "phases": [{"until": 1.0, "weights": {"math": 1}}],
}


def disk(stage: dict[str, Any]) -> int:
    """Of a stage on a 9B, whose tokenizer alone stands before it."""
    stages = {"words": {"kind": "tokenizer", "blend": _BLEND}, "own": {**stage, "needs": ["words"]}}
    recipe = build({"name": "t", "model": {"preset": "nano2-9b"}, "stages": stages})
    planned = resolve(kind(stage["kind"]).plan)(recipe.stages["own"], recipe)
    plan = RunPlan({"own": planned}, {"own": Decision("own", True, "")})
    return with_disk(recipe, plan).stages["own"].disk_bytes


def test_checkpoints_and_models_are_of_the_stages_own_sizes() -> None:
    """[derived] Two checkpoints kept and one being written, of 12 bytes a trained value; models of 2 bytes a
    parameter over a base in bfloat16 and 4 bits, of 4 else; two rounds of DPO leave three, engines over 4 bits
    read one more."""
    s = shape("nano2-9b")
    p, adapters = parameters(s), 12 * cost.lora_parameters(s, 16)
    sft = {
        "kind": "sft", "parts": {"one": {"source": _WORLD, "samples": 4000}}, "sample_tokens": 500,
        "row_tokens": 512, "rows_per_step": 4, "microbatch_rows": 4,
    }  # fmt: skip
    dpo = {"kind": "dpo", "tasks": _HOUSE, "held_out": _HOUSE, "rounds": 2}
    grpo = {"kind": "grpo", "prompts": _WORLD, "held_out": _WORLD}
    assert disk(sft) == 3 * 12 * p + 4 * p
    for base, each in (("float32", 4), ("bfloat16", 2), ("nf4", 2)):
        lora = {"lora": {"rank": 16, "base": base}}
        assert disk(sft | lora) == 3 * adapters + each * p
        assert disk(dpo | lora) == 3 * adapters + 3 * each * p
        assert disk(grpo | lora) == 3 * adapters + (1 + (base == "nf4")) * each * p
