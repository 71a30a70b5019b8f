"""Shapes, parameter counts and memory against the model card, the paper and transformers."""

import subprocess
import sys

import pytest
import torch
from transformers import NemotronHForCausalLM

from model.hybrid import build_config
from model.presets import PRESETS, shape
from model.sizes import GIB, active_parameters, memory, parameters, state_bytes
from workbench.errors import UserError

# [model card] 12.31B and 8.89B; [paper] Table 10: 8.92, 8.89, 8.97.
PARAMETERS = {
    "nano2-12b": 12.310e9,
    "nano2-9b": 8.888e9,
    "nano2-9b-candidate1": 8.923e9,
    "nano2-9b-candidate3": 8.966e9,
    # [secondary] 31.6B, of which a token passes 3.2B with its row of the embedding (test below).
    "nano3-30b-a3b": 31.578e9,
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_closed_formula_equals_transformers_model(preset: str) -> None:
    with torch.device("meta"):
        model = NemotronHForCausalLM(build_config(preset))
    count = sum(p.numel() for p in model.parameters())
    assert parameters(shape(preset)) == count
    if preset in PARAMETERS:
        assert count == pytest.approx(PARAMETERS[preset], abs=0.5e6)


def test_a_token_of_the_30b_passes_a_tenth_of_it() -> None:
    """[secondary] 3.2B active parameters; [derived] of 128 experts 6 and the shared one, 23 times."""
    s = shape("nano3-30b-a3b")
    assert [s.pattern.count(kind) for kind in "ME*-"] == [23, 23, 6, 0]
    assert round(active_parameters(s) / 1e9, 1) == 3.2
    idle = 23 * 122 * 2 * 2688 * 1856 + 131071 * 2688
    assert parameters(s) - active_parameters(s) == idle


def test_a_layer_of_experts_needs_its_sizes() -> None:
    with pytest.raises(UserError, match="n_routed_experts is 0; it must be positive"):
        shape("miniature", pattern="ME")
    sizes = {"moe_intermediate_size": 8, "moe_shared_expert_intermediate_size": 8}
    with pytest.raises(UserError, match="num_experts_per_tok 4 is more than n_routed_experts 2"):
        shape("miniature", pattern="ME", n_routed_experts=2, num_experts_per_tok=4, **sizes)


def test_layers_of_nano2() -> None:
    big, small = PRESETS["nano2-12b"].pattern, PRESETS["nano2-9b"].pattern
    assert (len(big), len(small)) == (62, 56)
    assert [big.count(c) for c in "M-*"] == [28, 28, 6]  # [paper]
    assert [small.count(c) for c in "M-*"] == [27, 25, 4]  # [model card]
    assert [i for i, c in enumerate(big) if c == "*"] == [7, 16, 25, 34, 43, 52]
    assert [i for i, c in enumerate(small) if c == "*"] == [14, 21, 30, 39]


def test_memory_of_nano2_at_128k() -> None:
    """[derived] 16.56 + 2.00 GiB for the 9B and 22.93 + 3.00 for the 12B, in bf16."""
    nine = memory(shape("nano2-9b"), tokens=131072)
    assert nine.weights_bytes / GIB == pytest.approx(16.56, abs=0.005)
    assert nine.kv_cache_bytes == 2 * GIB
    assert nine.total_bytes / GIB < 19.66  # the paper's A10G budget
    # 27 layers x (10240 x 128 state + 12288 x 3 window) values; 0.07 GiB with a bf16 state.
    assert state_bytes(shape("nano2-9b"), ssm_bytes=2) == 27 * (10240 * 128 + 12288 * 3) * 2
    assert state_bytes(shape("nano2-9b"), ssm_bytes=2) / GIB == pytest.approx(0.07, abs=0.005)
    twelve = memory(shape("nano2-12b"), tokens=131072)
    assert twelve.weights_bytes / GIB == pytest.approx(22.93, abs=0.005)
    assert twelve.kv_cache_bytes == 3 * GIB
    assert twelve.total_bytes / GIB > 25.9


def test_parameters_of_one_layer_of_each_kind_by_hand() -> None:
    s = shape("miniature", pattern="M-*", vocab_size=100)
    mamba = 128 * (256 + 384 + 8) + 384 * 5 + 3 * 8 + 256 + 256 * 128 + 128
    mlp = 2 * 128 * 512 + 128
    attention = 128 * (4 + 2 + 2 + 4) * 32 + 128
    assert parameters(s) == mamba + mlp + attention + 2 * 100 * 128 + 128


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pattern": "M-X"}, ("'X'", "layer 2", "allowed: M")),
        ({"pattern": ""}, ("empty",)),
        ({"mamba_num_heads": 9}, ("mamba_num_heads 9", "n_groups 2", "1, 3, 9")),
        ({"num_key_value_heads": 3}, ("num_attention_heads 4", "num_key_value_heads 3")),
        ({"hidden_size": 0}, ("hidden_size", "positive")),
        ({"hidden_size": 12.5}, ("hidden_size", "whole number")),
        ({"vocab_size": True}, ("vocab_size", "whole number")),
        ({"vocab_size": 2}, ("special token id 2", "vocab_size 2")),
        ({"hidden_sise": 64}, ("hidden_sise", "did you mean 'hidden_size'")),
        ({"initializer_range": 0.0}, ("initializer_range",)),
        ({"layer_norm_epsilon": "abc"}, ("layer_norm_epsilon is 'abc'", "positive number")),
        ({"layer_norm_epsilon": float("inf")}, ("layer_norm_epsilon is inf", "positive number")),
        ({"layer_norm_epsilon": float("nan")}, ("layer_norm_epsilon is nan", "positive number")),
        ({"initializer_range": True}, ("initializer_range is True", "positive number")),
        ({"initializer_range": None}, ("initializer_range is None", "positive number")),
        ({"dtype": "float17"}, ("dtype is 'float17'", "bfloat16")),
        ({"dtype": 3}, ("dtype is 3", "bfloat16")),
    ],
)
def test_bad_shape_is_one_clear_line(fields: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        shape("miniature", **fields)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_unknown_preset_and_missing_fields() -> None:
    with pytest.raises(UserError, match="did you mean 'nano2-9b'"):
        shape("nano-9b")
    with pytest.raises(UserError, match="needs .*hidden_size"):
        shape(pattern="M-")


def test_presets_and_sizes_import_no_torch() -> None:
    code = "import sys, model.presets, model.sizes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
