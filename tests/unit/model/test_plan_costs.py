"""What a step sends, what a machine's memory and disk hold, and models beside: against hand derivations."""

from dataclasses import replace
from typing import Any

import pytest

from model import cost
from model.communication import communication
from model.estimate import HARDWARE, price
from model.host import ENGINE_BYTES, PROCESS_BYTES, checkpoints, generation_host, training_host
from model.presets import shape
from model.room import Seated, fits
from model.sizes import parameters
from workbench.load import Beside, GenerationLoad, ScoringLoad, TrainingLoad

# [derived] H 8, F 16, D 2 x 4, N 4, G 1, 2 heads of 4, 1 key-value head, V 10. Matrices: M 8 x 26 + 8 x 8 = 272,
# - 2 x 8 x 16 = 256, * 8 x 6 x 4 = 192: 720. Vectors: M 16 x 5 conv + 3 x 2 + 8 + 8 = 102, - 8, * 8: 118.
# Embedding, unembedding and the last norm: 2 x 80 + 8 = 168. In all 1,006.
TINY = shape(
    pattern="M-*", hidden_size=8, intermediate_size=16, mamba_num_heads=2, mamba_head_dim=4,
    num_attention_heads=2, num_key_value_heads=1, head_dim=4, vocab_size=10, n_groups=1,
    ssm_state_size=4,
)  # fmt: skip


def load(**fields: Any) -> TrainingLoad:
    return TrainingLoad(
        **{"tokens": 4096, "row_tokens": 64, "strategy": "fsdp", "workers": 4} | fields
    )


def test_weights_are_gathered_twice_and_gradients_scattered_once() -> None:
    """[derived] fp32: layers 2 x 4 x 838, the rest 4 x 168, gradients 4 x 1,006; of that three quarters, four
    processes having one each. bf16: matrices at 2 bytes. 8 rows of four processes: two microbatches."""
    assert parameters(TINY) == 1006
    found = communication(TINY, load())
    assert found == (0.75 * (2 * 4 * 838 + 4 * 168 + 4 * 1006), 0.0, 0.0)
    half = communication(TINY, load(precision="bf16", step_tokens=8 * 64))
    assert half.state == 2 * 0.75 * (2 * (2 * 720 + 4 * 118) + 4 * 168 + 4 * 1006)
    assert communication(TINY, load(workers=1, strategy="none")) == (0.0, 0.0, 0.0)


def test_copies_add_their_gradients_and_ddp_all_of_them() -> None:
    """[derived] two copies of two shards: half of the state travels inside a copy; each process then adds up its
    half of 4 x 1,006 bytes with one other, there and back: once its size. ddp over 4: 2 x 3/4 of all."""
    found = communication(TINY, load(replicate=2))
    assert found.state == 0.5 * (2 * 4 * 838 + 4 * 168 + 4 * 1006)
    assert found.copies == 4 * 1006 / 2
    assert communication(TINY, load(strategy="ddp")).copies == 2 * 0.75 * 4 * 1006


def test_zero2_gathers_what_the_optimizer_updated() -> None:
    """[derived] bf16: all of 1,006 parameters back and their gradients there; of adapters their 276 alone. zero3
    gathers all twice a microbatch."""
    half = {"precision": "bf16", "strategy": "zero2"}
    assert communication(TINY, load(**half)).state == 0.75 * 2 * (1006 + 1006)
    assert communication(TINY, load(**half, lora_rank=2)).state == 0.75 * 2 * (276 + 276)
    found = communication(TINY, load(**half | {"strategy": "zero3"}, step_tokens=8 * 64))
    assert found.state == 0.75 * 2 * (4 * 1006 + 2 * 1006)


def test_a_shared_row_is_traded_around_scan_and_attention() -> None:
    """[derived] Of a row of 64 tokens each of two has 32. M: in_proj's 26 values and 8 back; *: 8 + 2 x 4 and 8
    back; in fp32 4 x 58 bytes a token. Half of it goes to the other one, forward and backward."""
    rows = communication(TINY, load(workers=2, context=2)).rows
    assert rows == 0.5 * 2 * 32 * 4 * (26 + 8 + 16 + 8)
    again = communication(TINY, load(workers=2, context=2, activations="checkpoint")).rows
    assert again == 1.5 * rows
    # The 12B's Mamba layer in bf16: 2 x 22,656 there, and 4 x 10,240 back in the stream's fp32.
    s = shape("nano2-12b")
    big = load(row_tokens=8, workers=8, context=8, precision="bf16")
    token = 28 * (2 * 22_656 + 4 * 10_240) + 6 * 2 * (5120 + 2 * 1024 + 5120)
    assert communication(s, big).rows == 7 / 8 * 2 * token


def test_a_frozen_teacher_is_gathered_once_and_shares_the_card() -> None:
    """[derived] bf16: a quarter of 2 x 1,006 bytes, two gathered layers of 374 (the Mamba layer) and 168 more. As
    a whole model, of which the others know nothing: 4 x 1,006."""
    teacher = Beside("t", dtype="bfloat16")
    alone, taught = communication(TINY, load()), communication(TINY, load(), [(TINY, teacher)])
    assert taught.state - alone.state == 0.75 * 2 * 1006
    memory = cost.training_memory(TINY, load(), [(TINY, teacher)])
    assert memory.beside == 2 * 1006 // 4 + 2 * (2 * 374 + 168)
    assert memory.device_bytes - cost.training_memory(TINY, load()).device_bytes == memory.beside
    scores = Beside("r", sharded=False, passes=0)
    assert cost.training_memory(TINY, load(), [(TINY, scores)]).beside == 4 * 1006
    priced = [
        price(TINY, load(), HARDWARE["h100"], of)["flops"]
        for of in ([], [(TINY, teacher)], [(TINY, scores)])
    ]
    assert priced[1] - priced[0] == pytest.approx(4096 * cost.forward_flops(TINY, 64))
    assert priced[2] == priced[0]
    # [derived] The 9B's adapters fit a card of 24 GB, and not beside a reward model of 33.1 GiB in fp32.
    s = shape("nano2-9b")
    asked = load(
        workers=1,
        strategy="none",
        lora_rank=16,
        base="bfloat16",
        precision="bf16",
        activations="checkpoint",
    )
    assert fits(Seated(s, [asked])) == "fits 24 GB (17.1 GiB)"
    words = fits(Seated(s, [asked], [[(s, scores)]]))
    assert words.endswith("40 GB: no key makes it fit; fits 80 GB (50.2 GiB)")


def test_a_machine_holds_its_processes_their_inputs_states_and_weights() -> None:
    """[derived] Sixteen trainers on machines of eight: 12 P / 16 each in a checkpoint's copy, 4 P / 16 twice on the
    way to engines. 62 layers of 8,192 / 2 tokens x 5,120 x 4 bytes wait on the host."""
    s = shape("nano2-12b")
    p = parameters(s)
    found = training_host(
        s, load(row_tokens=8192, workers=16, context=2, activations="offload", precision="bf16", published=True), 8
    )  # fmt: skip
    assert found.processes == 8 * PROCESS_BYTES
    assert found.offloaded == 8 * 62 * 4096 * 5120 * 4
    assert found.saving == 8 * 12 * p / 16 and found.sent == 8 * 2 * 4 * p / 16
    assert found.total == sum(found)
    engines = GenerationLoad(
        1, 1024, 8, engines=12, gpus=2, dtype="bfloat16", published=True, sleep=True
    )
    # Of each of four engines both workers are handed all weights in fp32, beside the store's copy.
    held = 4 * p + 4 * 2 * 4 * p
    assert generation_host(s, engines, 8) == (4 * ENGINE_BYTES, 4 * 2 * p, 0.0, held)
    # With adapters the engine's own process has merged them all before.
    sent = generation_host(s, replace(engines, lora_rank=2), 8).sent
    assert sent == pytest.approx(4 * cost.lora_parameters(s, 2) + 4 * 3 * 4 * p, rel=1e-12)


def test_a_trainer_that_takes_turns_waits_on_the_host() -> None:
    """[derived] fp32: weights 4 x 1,006, gradients 4, moments 8; a reference beside it 4 more."""
    trained, reference = load(workers=1, strategy="none"), [(TINY, Beside("sft"))]
    assert training_host(TINY, trained, 1).offloaded == 0
    assert training_host(TINY, trained, 1, turns=True).offloaded == 16 * 1006
    assert training_host(TINY, trained, 1, reference, turns=True).offloaded == 20 * 1006


def test_of_adapters_those_alone_are_on_their_way() -> None:
    """[derived] Rank 2 of 8 x 26, 8 x 16 twice, and 8 x 8, 8 x 4, 8 x 4, 8 x 8: 2 x (34 + 48 + 56) = 276 numbers
    in fp32, where all weights are 1,006."""
    trained = {"workers": 1, "strategy": "none", "published": True}
    assert training_host(TINY, load(**trained), 1).sent == 2 * 4 * 1006
    assert training_host(TINY, load(**trained, lora_rank=2), 1).sent == 2 * 4 * 276
    assert training_host(TINY, load(**trained, lora_rank=2, base="nf4"), 1).sent == 2 * 4 * 276
    engines = GenerationLoad(1, 1024, 8, gpus=1, published=True, lora_rank=2)
    assert generation_host(TINY, engines, 1).sent == 4 * 276


def test_checkpoints_are_kept_written_by_every_machine_and_take_their_share() -> None:
    """[derived] 12 P bytes; two kept, one under way, and the model's 4 P. Two machines at 5 GB/s each."""
    s = shape("nano2-9b")
    p = parameters(s)
    asked = load(workers=16, precision="bf16", checkpoint_every_steps=10, tokens=30 * 16 * 64)
    found = checkpoints(s, asked)
    assert (found.each, found.on_disk, found.every) == (12 * p, 3 * 12 * p + 4 * p, 10)
    few = load(workers=16, precision="bf16", checkpoint_every_steps=10, tokens=11 * 16 * 64)
    assert checkpoints(s, few).on_disk == 2 * 12 * p + 4 * p  # after step 10, and the last one
    priced = price(s, asked, HARDWARE["h100"])
    assert priced["checkpoints"]["seconds"] == pytest.approx(12 * p / 10e9)
    between = 10 * priced["communication"]["step_s"]
    assert priced["checkpoints"]["share"] == pytest.approx(12 * p / 10e9 / between)
    adapters = load(checkpoint_every_steps=1, lora_rank=8, base="bfloat16")
    each = 12 * cost.lora_parameters(s, 8)
    # Two kept, one being written, and the model in its base's type; what 4 bits stand for, for engines.
    assert checkpoints(s, adapters)[:2] == (each, 3 * each + 2 * p)
    assert checkpoints(s, replace(adapters, base="float32")).on_disk == 3 * each + 4 * p
    on_4_bits = replace(adapters, base="nf4")
    assert checkpoints(s, on_4_bits).on_disk == 3 * each + 2 * p
    assert checkpoints(s, replace(on_4_bits, published=True)).on_disk == 3 * each + 2 * 2 * p


def test_a_step_waits_for_the_longer_of_layers_and_weights_and_for_rows() -> None:
    """[derived] Within a machine 450 GB/s, to others 50, at 0.7."""
    s, card = shape("nano2-12b"), HARDWARE["h100"]
    near = load(workers=8, row_tokens=8192, tokens=2**20, precision="bf16")
    far = load(workers=16, row_tokens=8192, tokens=2**20, precision="bf16")
    for asked, speed in ((near, 450e9), (far, 50e9)):
        sent = communication(s, asked)
        moved = price(s, asked, card)["communication"]
        assert moved["seconds"] == pytest.approx(sum(sent) / speed / 0.7)
        assert moved["step_s"] == pytest.approx(max(moved["seconds"], moved["computed_s"]))
        assert price(s, asked, card)["seconds"] == pytest.approx(asked.steps * moved["step_s"])
    rows = load(workers=16, context=8, row_tokens=8192, precision="bf16")
    moved = price(s, rows, card)["communication"]
    waited = communication(s, rows).rows / 450e9 / 0.7
    hidden = communication(s, rows).state / 50e9 / 0.7
    assert moved["step_s"] == pytest.approx(max(hidden, moved["computed_s"]) + waited)


def test_host_memory_that_does_not_suffice_is_marked() -> None:
    s = shape("nano2-12b")
    asked = load(workers=8, row_tokens=524288, activations="offload", precision="bf16")
    assert price(s, asked, HARDWARE["h100"])["host"]["fits"] is False
    assert price(s, asked, HARDWARE["cpu"])["host"]["fits"] is True  # the same memory, counted once


def test_adapters_shard_the_base_as_it_is_held() -> None:
    """[derived] 2 bytes of the base and 4 of each adapter's parameter over 4 processes."""
    s = shape("nano2-9b")
    trained = cost.lora_parameters(s, 8)
    memory = cost.training_memory(s, load(lora_rank=8, base="bfloat16", precision="bf16"))
    assert memory.weights == (2 * parameters(s) + 4 * trained) // 4
    assert (memory.gradients, memory.optimizer) == (4 * trained // 4, 8 * trained // 4)


def test_a_whole_model_is_scored_on_one_card() -> None:
    """[derived] fp32 weights, and of 64 tokens the inputs of three layers and two outputs, 8 values of 4 bytes, with
    what the largest layer keeps."""
    found = price(TINY, ScoringLoad(tokens=640, row_tokens=64), HARDWARE["h100"])
    memory = found["memory"]
    assert memory["weights"] == 4 * 1006
    largest = max(cost.layer_activation_bytes(TINY, kind, load()) for kind in "M-*")
    assert memory["activations"] == 64 * (largest + 5 * 8 * 4)
    assert found["seconds"] is None and found["flops"] == 640 * cost.forward_flops(TINY, 64)
