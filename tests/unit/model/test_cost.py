"""Costs by formula: against transformers' own model, hand derivations, and the model card."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMLP

from model import cost
from model.estimate import HARDWARE, price
from model.hybrid import build_config, load_model
from model.layers.feed_forward import FusedFeedForward
from model.presets import shape
from model.sizes import GIB, parameters
from workbench.load import GenerationLoad, TrainingLoad

KIND_OF = {
    "linear_attention": "mamba", "mlp": "mlp", "moe": "mlp", "full_attention": "attention",
}  # fmt: skip


def _meta(preset: str) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(build_config(preset))


def test_parameters_by_kind_are_those_of_transformers_model() -> None:
    """[derived] every parameter of the meta-device model, counted where it stands."""
    for preset in ("miniature", "nano2-12b", "nano2-9b", "nano3-30b-a3b"):
        model = _meta(preset)
        kinds = shape(preset).layer_kinds
        counted = {"mamba": 0, "mlp": 0, "attention": 0, "output": 0}
        for name, parameter in model.named_parameters():
            parts = name.split(".")
            layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else None
            kind = "output" if layer is None else KIND_OF[kinds[layer]]
            counted[kind] += parameter.numel()
        assert cost.parameters_by_kind(shape(preset))._asdict() == counted


def test_lora_parameters_are_those_of_the_adapted_linears() -> None:
    """[derived] rank x (in + out) of the linears that model.lora names, on the real module tree."""
    from model.lora import target_modules

    for preset in ("nano2-9b", "nano3-30b-a3b"):
        model = _meta(preset)
        names = set(target_modules(model))
        linears = [m for n, m in model.named_modules() if n in names]
        expected = sum(16 * (m.in_features + m.out_features) for m in linears)  # type: ignore[operator]
        assert cost.lora_parameters(shape(preset), 16) == expected


def test_forward_flops_of_a_shape_worked_out_by_hand() -> None:
    """[derived] H 8, F 16, D 2x4, N 4, G 1, K 4, 2 heads of 4, 1 kv head, V 10; documents of 6.

    M: in_proj 8x(8 + 16 + 2) = 208 and out_proj 64, x2 = 544; scan in chunks of 6:
    2x6x(4 + 8) + 4x8x4 = 272; conv 2x4x16 = 128 -> 944. -: 2x2x8x16 = 512.
    *: 8x(4 + 2)x4 = 192, x2 = 384; scores 4x3x8 = 96 -> 480. head: 2x10x8 = 160.
    """
    s = shape(
        pattern="M-*", hidden_size=8, intermediate_size=16, mamba_num_heads=2, mamba_head_dim=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, vocab_size=10, n_groups=1,
        ssm_state_size=4,
    )  # fmt: skip
    assert cost.forward_flops(s, 6) == 944 + 512 + 480 + 160
    load = TrainingLoad(tokens=1000, row_tokens=6)
    assert cost.training_flops(s, load) == 3 * 2096 * 1000
    again = TrainingLoad(tokens=1000, row_tokens=6, activations="checkpoint")
    assert cost.training_flops(s, again) == 4 * 2096 * 1000


def test_experts_cost_what_a_token_visits() -> None:
    """[derived] 2 of 8 experts of 8 x 16 twice, the shared one of 8 x 4 twice, a router of 8 x 8, a norm of 8:
    2 x (2 x 256 + 64 + 64 + 8) FLOPs (the norm counts as its weights), and 8 x (2 x 8 x 16 + 2 x 4 + 8 + 1) parameters."""
    s = shape(
        "miniature", pattern="E", hidden_size=8, n_routed_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=16, moe_shared_expert_intermediate_size=4,
    )  # fmt: skip
    head = 2 * s.vocab_size * 8
    assert cost.forward_flops(s, 6) - head == 2 * (2 * 256 + 64 + 64 + 8)
    assert parameters(s) - head - 8 == 8 * (2 * 8 * 16 + 2 * 4 + 8 + 1)


def test_pretraining_flops_of_the_12b_are_those_of_its_card() -> None:
    """[model card] 1.45e24 for 20T tokens at 8,192; ours counts a little differently: 5%."""
    load = TrainingLoad(tokens=20 * 10**12, row_tokens=8192)
    ours = cost.training_flops(shape("nano2-12b"), load)
    assert abs(ours / 1.45e24 - 1) < 0.05


def test_state_of_12b_by_strategy() -> None:
    """[derived] P = 12.310e9. ddp with autocast: 4 + 4 + 8 + 2 = 18 bytes a parameter. 64 workers in
    bf16: zero2 2P + (2P + 12P)/64; zero3 (2P + 2P + 12P)/64 and 2 bytes x 1e9 gathered; both a
    bucket of 5e8 bf16 gradients."""
    s = shape("nano2-12b")
    p = parameters(s)

    def states(**layout: object) -> int:
        load = TrainingLoad(tokens=1, row_tokens=8192, precision="bf16", **layout)  # type: ignore[arg-type]
        memory = cost.training_memory(s, load)
        return memory.weights + memory.gradients + memory.optimizer + memory.buffers

    assert states(workers=64, strategy="ddp") == 18 * p
    assert states(workers=64, strategy="zero2") == 2 * p + 2 * p // 64 + 12 * p // 64 + 10**9
    zero3 = 2 * p // 64 + 2 * p // 64 + 12 * p // 64 + 10**9 + 2 * 10**9
    assert states(workers=64, strategy="zero3") == zero3


def test_fsdp_shards_fp32_state_and_a_shared_row_is_a_slice() -> None:
    """[derived] 64 processes in 2 copies: 4 + 4 + 8 bytes a parameter over 32. Gathered in bf16: two
    feed-forward layers of 209,715,200 at 2 bytes, the gradient of one at 2 + 4, their norms of 5,120 at 4 and
    4 + 4, and embedding and unembedding whole at 4. Context 8: an eighth of the row's layer inputs, in fp32."""
    s = shape("nano2-12b")
    p = parameters(s)
    layout = {"workers": 64, "replicate": 2, "strategy": "fsdp", "precision": "bf16"}

    def memory(context: int) -> cost.TrainingMemory:
        load = TrainingLoad(tokens=1, row_tokens=131072, activations="offload", context=context,
                            **layout)  # type: ignore[arg-type]  # fmt: skip
        return cost.training_memory(s, load)

    found = memory(8)
    assert found.weights + found.gradients + found.optimizer == 2 * (4 * p // 32) + 8 * p // 32
    assert found.buffers == 10 * 2 * 5120 * 20480 + 16 * 5120 + 4 * (2 * 131072 * 5120 + 5120)
    assert found.host == 62 * 131072 // 8 * 5120 * 4 == memory(1).host // 8


@pytest.mark.parametrize("preset", ["nano2-9b", "nano3-30b-a3b"])
def test_fsdp_gathers_linear_layers_in_bf16_and_the_rest_in_fp32(preset: str) -> None:
    """[derived] Of the real module tree, as model.sharding groups it: linear layers at 2 x 2 bytes, their gradient
    at 2 + 4; what else a layer has (routed experts are plain parameters) at 2 x 4 and 4 + 4."""
    s = shape(preset)

    def buffers(**fields: Any) -> int:
        load = TrainingLoad(1, 8192, workers=64, strategy="fsdp", precision="bf16", **fields)
        return cost.training_memory(s, load).buffers - 4 * cost.parameters_by_kind(s).output

    layers = list[tuple[int, int]]()
    for block in _meta(preset).base_model.layers:
        matrices = [m.weight.numel() for m in block.modules() if isinstance(m, torch.nn.Linear)]
        layers.append((sum(matrices), sum(p.numel() for p in block.parameters()) - sum(matrices)))
    assert buffers() == max(10 * linear + 16 * rest for linear, rest in layers)
    # A frozen base is gathered as it is held, in bf16, and has no gradient.
    held = buffers(lora_rank=8, base="bfloat16")
    assert held == max(2 * 2 * (linear + rest) for linear, rest in layers)


def test_checkpoints_keep_one_input_a_layer_and_offload_moves_them() -> None:
    """[derived] 62 layers x 131,072 tokens x 5,120 x 2 bytes = 77.5 GiB of checkpoints."""
    s = shape("nano2-12b")

    def memory(activations: str) -> cost.TrainingMemory:
        load = TrainingLoad(tokens=1, row_tokens=131072, workers=64, strategy="zero3",
                            precision="bf16", activations=activations)  # type: ignore[arg-type]  # fmt: skip
        return cost.training_memory(s, load)

    inputs = 131072 * 5120 * 2
    checkpointed, offloaded = memory("checkpoint"), memory("offload")
    assert offloaded.host == 62 * inputs and round(62 * inputs / GIB, 1) == 77.5
    assert checkpointed.activations - offloaded.activations == 60 * inputs
    assert memory("keep").device_bytes > checkpointed.device_bytes > offloaded.device_bytes


def _saved_bytes(model: torch.nn.Module, tokens: int) -> int:
    """Bytes of all storages that autograd keeps in a forward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=ids, seq_idx=ids.int(), use_cache=False)  # type: ignore[operator]
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in saved.values())


def test_kept_activations_are_those_autograd_saves() -> None:
    """What a layer keeps, against the storages autograd really saves (CPU path, fp32).

    A third of tolerance: the torch scan keeps decays that the CUDA kernel computes again.
    """
    tokens = 512
    for kind in "M-*E":
        experts = {
            "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
            "moe_shared_expert_intermediate_size": 128,
        }  # fmt: skip
        s = shape("miniature", pattern=kind * 4, **(experts if kind == "E" else {}))
        model = load_model(build_config(s), seed=0)
        for module in model.modules():
            if type(module) is FusedFeedForward:  # under autocast transformers' own layer runs
                module.__class__ = NemotronHMLP
        measured = _saved_bytes(model, tokens) / tokens
        load = TrainingLoad(tokens=1, row_tokens=tokens)
        expected = 4 * cost.layer_activation_bytes(s, kind, load)
        assert abs(expected / measured - 1) < 0.33, (kind, expected, measured)


def test_serving_memory_and_decoding_time_by_hand() -> None:
    """[derived] 9B in bf16 at 131,072 tokens, one sequence: 16.56 + 2.00 GiB, and 0.13 of state.

    (the SSM state in fp32, as the card asks). Decoding reads weights, half the KV cache and the state twice at half of 3.35 TB/s.
    """
    load = GenerationLoad(tokens=1000, context_tokens=131072, sequences=1, dtype="bfloat16", gpus=1)
    done = price(shape("nano2-9b"), load, HARDWARE["h100"])
    memory = done["memory"]
    assert [round(memory[k] / GIB, 2) for k in ("weights", "kv_cache", "state")] == [
        16.56,
        2.0,
        0.13,
    ]
    read = memory["weights"] + memory["kv_cache"] / 2 + 2 * memory["state"]
    assert done["seconds"] == pytest.approx(1000 * read / (3.35e12 * 0.5), rel=1e-12)
    # A token of so long a document sees half of it: 4 layers of 40 heads x 128, 4 FLOPs each.
    scores = 4 * 4 * 65536 * 40 * 128
    short = cost.forward_flops(shape("nano2-9b"), 128) - 4 * 4 * 64 * 40 * 128
    assert done["flops"] == 1000 * (short + scores)


def test_time_is_flops_over_what_the_workers_do() -> None:
    load = TrainingLoad(tokens=10**9, row_tokens=8192, workers=8, gpus=1, strategy="zero2")
    done = price(shape("nano2-9b"), load, HARDWARE["a100"])
    assert done["seconds"] == done["flops"] / (312e12 * 0.35 * 8)
    assert done["fits"] is False
