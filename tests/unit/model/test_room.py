"""What a stage's loads need of a card, and what they get: by turns, side by side, and refused."""

from typing import Any

import pytest

from model.cost import training_memory
from model.decoder import described
from model.room import Seated, check, fits, generation_bytes
from model.sizes import GIB, parameters
from rl.config import GrpoConfig
from rl.plan import plan_grpo
from scripts.plan_room import check_cards, seated_on
from tests import tiny
from tests.unit.scripts.test_plan import QWEN3_8B, SMOLLM2_1_7B
from workbench import placement
from workbench.errors import UserError
from workbench.placement import Node, settle
from workbench.recipe import build

TASKS = {"type": "world", "domain": "math"}
QLORA = {
    "precision": "bf16", "activations": "checkpoint", "lora": {"rank": 16, "alpha": 32, "base": "nf4"},
    "microbatch_tokens": 4096,
    "engine": {"dtype": "bfloat16", "max_model_len": 1024, "max_num_seqs": 16, "sleep": True},
}  # fmt: skip


def seated(config: dict[str, Any], **grpo: Any) -> Seated:
    """A GRPO stage of a model on a machine with one card."""
    stages = {
        "tokenizer": tiny.tokenizer_stage(), "sft": tiny.sft_stage(needs=["tokenizer"]),
        "grpo": {"kind": "grpo", "needs": ["sft"], "prompts": TASKS, "held_out": TASKS, **grpo},
    }  # fmt: skip
    made = settle(build({"name": "x", "stages": stages}), [Node(8, 1)])
    stage = made.stages["grpo"]
    assert isinstance(stage, GrpoConfig)
    return seated_on(stage, described(config), plan_grpo(stage, made).loads, [(), ()])


def test_an_8b_is_trained_by_grpo_on_24_gb() -> None:
    """[derived] Engine: 2 x 8.19e9 bytes and 16 sequences of 1,024 tokens x 147,456 bytes, 17.5 GiB; trainer less.
    Each has 85% of 22.35 GiB: 19.0."""
    found = seated(QWEN3_8B, **QLORA)
    assert parameters(found.shape) == 8_190_735_360
    assert found.shares == (0.85, 0.85, True)
    needs = {need.what: need for need in found.needs(24e9)}
    assert needs["engine"].needed == 2 * 8_190_735_360 + 16 * 1024 * 147_456
    assert (
        needs["training"].needed
        == training_memory(
            found.shape,
            found.loads[1],
            card=24e9,  # type: ignore[arg-type]
        ).device_bytes
    )
    assert all(need.needed < need.allowed == 0.85 * 24e9 for need in needs.values())
    assert fits(found).startswith("fits 24 GB (17.5 GiB)")
    # What else is on the card then: 2 GiB of the engine that sleeps, two CUDA contexts of half a GiB, and of 16
    # sequences 18 bytes for each of 151,936 logits.
    assert 24e9 * (1 - placement.TURN_SHARE) > 3 * GIB + 16 * 151_936 * 18


def test_what_a_sleeping_engine_keeps_of_its_many_sequences_is_not_the_trainers() -> None:
    """[derived] 1,024 seats x 151,936 words x 18 bytes are 2.61 GiB beside the 3 of contexts and graphs: of 22.35
    the trainer has 16.74, not 85%. An eighth of the seats keeps 0.33, and 85% are again what counts."""
    many = {**QLORA["engine"], "max_num_seqs": 1024}  # type: ignore[dict-item]
    found = seated(QWEN3_8B, **{**QLORA, "engine": many})
    needs = {need.what: need for need in found.needs(24e9)}
    left = 24e9 - 3 * GIB - 1024 * 151_936 * 18
    assert needs["training"].allowed == left and left / GIB == pytest.approx(16.74, abs=0.01)
    assert needs["engine"].allowed == 0.85 * 24e9
    long = {**QLORA, "engine": many, "microbatch_tokens": 16384}
    tight = seated(QWEN3_8B, **long)
    card = 24e9
    need = next(n for n in tight.needs(card) if n.what == "training")
    card += need.needed - need.allowed - 1  # a byte too small
    with pytest.raises(UserError) as caught:
        check("grpo", tight, card)
    line = str(caught.value)
    assert "its training needs" in line and line.endswith(
        "change engine: {max_num_seqs: an eighth} (in stages.grpo)"
    )
    check("grpo", seated(QWEN3_8B, **{**long, "engine": {**many, "max_num_seqs": 128}}), card)


def test_without_sleep_it_does_not_fit_and_sleep_is_what_mends_it() -> None:
    """[derived] 35% of 22.35 GiB are 7.8 for the trainer, 60% are 13.4 for an engine of 15.3 in weights alone."""
    awake = {**QLORA, "engine": {**QLORA["engine"], "sleep": False}}  # type: ignore[dict-item]
    found = seated(QWEN3_8B, **awake)
    assert found.shares == (0.35, 0.6, False)
    assert fits(found).startswith("24 GB: engine: {sleep: true};")
    with pytest.raises(UserError) as caught:
        check("grpo", found, 24e9)
    line = str(caught.value)
    assert "its engine needs 15.4 of 13.4 GiB (60% of a card of 22.4)" in line
    assert line.endswith("change engine: {sleep: true} (in stages.grpo)") and "\n" not in line
    ahead = seated(QWEN3_8B, **{**awake, "max_staleness": 2})
    assert fits(ahead).startswith("24 GB: engine: {sleep: true}, max_staleness: 0;")


@pytest.mark.parametrize(
    "change",
    [
        {"max_staleness": 1},
        {"reward": {"kind": "model", "model": "sft"}},
        {"distributed": {"workers": 1, "strategy": "fsdp"}, "lora": None},
    ],
)
def test_who_overlaps_or_stays_on_the_card_takes_no_turns(change: dict[str, Any]) -> None:
    assert not seated(QWEN3_8B, **{**QLORA, **change}).shares.turns


def test_several_cards_need_no_turns() -> None:
    stages = {
        "tokenizer": tiny.tokenizer_stage(), "sft": tiny.sft_stage(needs=["tokenizer"]),
        "grpo": {"kind": "grpo", "needs": ["sft"], "prompts": TASKS, "held_out": TASKS, **QLORA},
    }  # fmt: skip
    recipe = build({"name": "x", "stages": stages})
    eight = settle(recipe, [Node(8, 8)]).stages["grpo"]
    assert placement.memory_shares(eight) == (
        1.0,
        0.9,
        False,
    )  # what vLLM gets of a card of its own
    assert eight.engine.memory_share == 0.9  # type: ignore[attr-defined]
    one = settle(recipe, [Node(8, 1)]).stages["grpo"]
    assert one.engine.memory_share == 0.85  # type: ignore[attr-defined]
    assert placement.lines(one) == (
        "on: one card in turns: stage 85% of its memory, then engine 85%",
    )
    assert one.gpus == 0.35  # what Ray counts


def test_sleep_is_offered_only_where_one_card_is_shared_and_with_the_shares_that_it_brings() -> (
    None
):
    awake = {**QLORA, "engine": {**QLORA["engine"], "sleep": False}}  # type: ignore[dict-item]
    apart = seated(QWEN3_8B, **{**awake, "gpus": 1, "engine": {**awake["engine"], "gpus": 1}})
    assert (apart.shares, apart.in_turns) == ((1.0, 0.9, False), None)
    assert "sleep" not in str(apart.change(16e9, least=True))
    given = {**awake["engine"], "gpu_memory_utilization": 0.5}
    told = seated(QWEN3_8B, **{**awake, "engine": given}).in_turns
    assert told == ("engine: {sleep: true}", (0.85, 0.5, True))
    two = seated(QWEN3_8B, **{**awake, "engine": {**awake["engine"], "replicas": 2}}).in_turns
    assert two is not None and two[1] == (0.85, 0.425, True)


def test_what_a_recipe_has_is_not_offered_again() -> None:
    ahead = seated(QWEN3_8B, **{**QLORA, "max_staleness": 2})
    assert fits(ahead).startswith("24 GB: max_staleness: 0;")
    full = {**QLORA["engine"], "max_num_seqs": 512, "max_model_len": 8192}  # type: ignore[dict-item]
    words = fits(seated(QWEN3_8B, **{**QLORA, "engine": full}))
    assert "engine: {max_num_seqs: an eighth}" in words and "dtype" not in words


def test_a_small_engine_beside_a_small_trainer_is_not_refused() -> None:
    check("grpo", seated(SMOLLM2_1_7B, **{**QLORA, "engine": {"dtype": "bfloat16"}}), 24e9)


def test_a_load_that_no_key_makes_fit_is_told_so() -> None:
    big = described({**QWEN3_8B, "num_hidden_layers": 400})
    found = seated(QWEN3_8B, **QLORA)
    with pytest.raises(UserError, match="no key makes it fit; take a larger card"):
        check("grpo", Seated(big, found.loads, (), found.shares, found.keys), 24e9)
    assert generation_bytes(big, found.loads[0]) > 24e9  # type: ignore[arg-type]


def test_the_smallest_card_of_a_cluster_counts_and_unknown_ones_do_not() -> None:
    """[derived] 12 bytes and more a parameter of a 12B are beyond 80 GB."""
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(needs=["tokenizer"]),
    }
    recipe = build({"name": "x", "model": {"preset": "nano2-12b"}, "stages": stages})
    made = settle(recipe, [Node(8, 1)])
    with pytest.raises(UserError, match=r"^stage 'pretrain': its training needs .* of 22\.4 GiB"):
        check_cards(made, ["pretrain"], [80e9, 24e9])
    check_cards(made, ["pretrain"], [])
    check_cards(made, ["tokenizer"], [24e9])
