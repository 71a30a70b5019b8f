"""Matrices in E4M3 blocks: against torchao's references, by hand, and with everything that may be in them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.fp8.blocks import (
    E4M3,
    LARGEST,
    TOKENS,
    WEIGHTS,
    Blocks,
    Scales,
    by_rows,
    decoded,
    encode,
    largest,
    quantise,
    steps,
)
from model.fp8.config import Fp8Config
from model.fp8.linear import BlockLinear
from model.fp8.products import block_scales, emulated, multiply, tile_scales, turned, whole

APART = Path(__file__).parents[3] / ".venv" / "dev-separate"
KINDS: tuple[Scales, ...] = ("pow2", "fp32")


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.uint8)


ORACLE = """
import sys, torch
from torchao.prototype.blockwise_fp8_training import kernels
x = torch.load(sys.argv[1])
found = {}
for name, given in x.items():
    found[name] = [
        kernels.torch_blockwise_scale_act_quant_lhs(given),
        kernels.torch_blockwise_scale_act_quant_rhs(given),
        kernels.torch_blockwise_scale_weight_quant(given),
    ]
torch.save(found, sys.argv[2])
"""


@pytest.mark.skipif(
    not (APART / "torchao").is_dir(), reason="torchao is not in .venv/dev-separate (requirements)"
)
def test_quantisers_equal_torchaos_to_the_bit(tmp_path: Path) -> None:
    wide = normal(256, 384) * torch.logspace(-8, 3, 384)
    given = {"fp32": wide, "bf16": wide.bfloat16(), "zeros": torch.zeros(256, 384)}
    given["subnormal"] = wide * 1e-38
    torch.save(given, tmp_path / "in")
    # In a process of its own: other libraries change what they do where torchao can be imported.
    subprocess.run(
        [sys.executable, "-c", ORACLE, str(tmp_path / "in"), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(APART)}, check=True, capture_output=True,
    )  # fmt: skip
    theirs = torch.load(tmp_path / "out")
    for name, x in given.items():
        (lhs, lhs_scale), (rhs, rhs_scale), (weight, weight_scale) = theirs[name]
        ours = quantise(x, TOKENS, "fp32")
        assert torch.equal(bits(ours.values), bits(lhs)) and torch.equal(ours.scales, lhs_scale)
        ours = quantise(x.T, TOKENS, "fp32")  # tiles along the tokens
        assert torch.equal(bits(ours.values), bits(rhs.T.contiguous()))
        assert torch.equal(ours.scales, rhs_scale.T)
        ours = quantise(x, WEIGHTS, "fp32")
        assert torch.equal(bits(ours.values), bits(weight))
        assert torch.equal(ours.scales, weight_scale)


def test_values_by_hand() -> None:
    """[derived] E4M3 has 3 bits behind the point: near 448 steps of 32, near 1 of 1/8, below 2^-6 of 2^-9.
    Largest 3: 3/448 = 0.0067, so the power of two is 2^-7 = 0.0078 and 3 becomes 384. 1.0 becomes 128; 0.7
    becomes 89.6, between 88 and 96: 88, which is 0.6875; 2^-17 becomes 2^-10, half of the smallest
    subnormal, and ties go to even: 0."""
    x = torch.zeros(1, 128)
    x[0, :5] = torch.tensor([3.0, 1.0, -0.7, 2.0**-17, 2.0**-16])
    found = quantise(x, TOKENS)
    assert found.scales.tolist() == [[2.0**-7]]
    assert decoded(found.values)[0, :5].tolist() == [384.0, 128.0, -88.0, 0.0, 2.0**-9]
    assert found.expanded()[0, :5].tolist() == [3.0, 1.0, -0.6875, 0.0, 2.0**-16]
    exact = quantise(x, TOKENS, "fp32")
    assert exact.scales.item() == pytest.approx(3 / 448, rel=1e-7)
    assert decoded(exact.values)[0, 0] == LARGEST


@pytest.mark.parametrize("power", [-130, -126, -40, -9, 0, 1, 7, 100])
def test_a_power_of_two_is_the_smallest_that_fits(power: int) -> None:
    """[derived] 448 x 2^k fits 2^k; the next larger number needs 2^(k + 1)."""
    edge = torch.tensor(LARGEST * 2.0 ** max(power, -126), dtype=torch.float32)
    beyond = torch.nextafter(edge, torch.tensor(torch.inf))
    multiplier, scale = steps(torch.stack([edge, beyond]), "pow2")
    assert scale.tolist() == [2.0 ** max(power, -126), 2.0 ** (max(power, -126) + 1)]
    assert (multiplier * scale).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scales", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (130, 128), (5, 300), (257, 129)])
def test_error_is_half_a_step_and_sizes_are_free(size: tuple[int, int], scales: Scales) -> None:
    """[derived] a normal E4M3 value is off by 2^-4 of itself at most, a smaller one by 2^-10 scales."""
    x = normal(*size) * torch.logspace(-3, 2, size[1])
    for block in (TOKENS, WEIGHTS):
        found = quantise(x, block, scales)
        down, across = -(-size[0] // block[0]), -(-size[1] // block[1])
        assert found.values.shape == x.shape and found.scales.shape == (down, across)
        scale = found.scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        scale = scale[: size[0], : size[1]]
        allowed = torch.maximum(x.abs() / 16, scale * 2.0**-10) * (1 + 1e-6)
        assert bool(((found.expanded() - x).abs() <= allowed).all())


@pytest.mark.parametrize("scales", KINDS)
def test_zeros_stay_zeros_and_what_is_not_finite_is_seen(scales: Scales) -> None:
    zeros = quantise(torch.zeros(3, 200), TOKENS, scales)
    assert not zeros.expanded().any() and torch.isfinite(zeros.scales).all()
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = normal(256, 256)
        x[5, 3] = bad
        tiles, weights = (
            quantise(x, block, scales).expanded().isnan() for block in (TOKENS, WEIGHTS)
        )
        # Its own block as a whole, and no other.
        assert tiles[5, :128].all() and int(tiles.sum()) == 128
        assert weights[:128, :128].all() and int(weights.sum()) == 128 * 128


@pytest.mark.parametrize(("block", "changed"), [(TOKENS, (7, 1)), (WEIGHTS, (0, 1))])
def test_an_outlier_changes_bits_of_its_own_block_alone(
    block: tuple[int, int], changed: tuple[int, int]
) -> None:
    x = normal(256, 384)
    before = quantise(x, block)
    x[7, 200] = 1e4
    after = quantise(x, block)
    moved = (before.scales != after.scales).nonzero().tolist()
    assert moved == [list(changed)]
    r, c = block
    other = bits(before.values) != bits(after.values)
    other[changed[0] * r : (changed[0] + 1) * r, changed[1] * c : (changed[1] + 1) * c] = False
    assert not other.any()


def test_blocks_of_a_share_are_those_of_the_whole() -> None:
    """Rows 100 to 300 of 400, whose blocks begin at row 0."""
    x = normal(400, 200)
    amax = largest(x, WEIGHTS)
    mine = x[100:300]
    assert largest(mine, WEIGHTS, above=100).shape == (3, 2)
    multiplier, _ = steps(amax, "pow2")
    values = encode(mine, multiplier[:3], WEIGHTS, above=100)
    assert torch.equal(bits(values), bits(quantise(x, WEIGHTS).values[100:300]))


def test_a_rows_tiles_are_its_own() -> None:
    x = normal(3, 200, 16)
    one = quantise(by_rows(x), TOKENS)
    alone = [quantise(by_rows(row[None]), TOKENS) for row in x]
    assert torch.equal(bits(one.values), torch.cat([bits(a.values) for a in alone], 1))
    assert torch.equal(one.scales, torch.cat([a.scales for a in alone], 1))


@pytest.mark.parametrize("scales", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_three_products_equal_fp64_of_what_both_sides_are(scales: Scales, bias: bool) -> None:
    """Against torch's linear layer in fp64 on the quantised operands; ragged sizes."""
    layer = BlockLinear(200, 150, bias=bias)
    layer.fp8 = Fp8Config(scales=scales)
    x, dy = normal(2, 70, 200).requires_grad_(), normal(2, 70, 150, seed=1) * 1e-4
    y = layer(x)
    y.backward(dy)
    w = quantise(layer.weight.detach(), WEIGHTS, scales).expanded().double()
    flat = quantise(x.detach().flatten(0, 1), TOKENS, scales).expanded().double()
    flat_dy = quantise(dy.flatten(0, 1), TOKENS, scales).expanded().double()
    x_along, dy_along = (
        quantise(by_rows(v.detach()), TOKENS, scales).expanded().double() for v in (x, dy)
    )
    expected = flat @ w.T + (layer.bias.detach().double() if bias else 0)
    grad, weight_grad = x.grad, layer.weight.grad
    assert grad is not None and weight_grad is not None

    def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return float((ours.double() - theirs).norm() / theirs.norm())

    assert far(y.detach().flatten(0, 1), expected) < 1e-6
    assert far(grad.flatten(0, 1), flat_dy @ w) < 1e-6
    assert far(weight_grad, dy_along @ x_along.T) < 1e-6
    assert weight_grad.dtype == torch.float32
    # And near the product in full precision: E4M3 rounds each side by 2.6% on average.
    plain = torch.nn.functional.linear(x.detach(), layer.weight.detach(), layer.bias)
    assert 0.005 < far(y.detach(), plain.double().detach()) < 0.06


def test_under_autocast_the_product_is_as_exact_and_comes_out_in_bf16() -> None:
    layer = BlockLinear(128, 128, bias=False)
    layer.fp8 = Fp8Config()
    x = normal(1, 8, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x).bfloat16())


def test_what_the_card_is_given() -> None:
    """[source: aten/src/ATen/native/cuda/ScaledBlas.cpp] scales of tiles [M, K/128] with strides (1, M); of
    blocks [K/128 to a multiple of 4, N/128] with strides (1, that)."""
    tiles = tile_scales(normal(200, 3), 8)
    assert tiles.shape == (208, 3) and tiles.stride() == (1, 208)
    assert tiles[200:].eq(1).all()
    blocks = block_scales(normal(5, 3), 3)
    assert blocks.shape == (4, 5) and blocks.stride() == (1, 4)
    values = normal(150, 200).to(E4M3)
    filled = whole(values, 128, 128)
    assert filled.shape == (256, 256) and filled.dtype == E4M3
    assert torch.equal(bits(filled)[:150, :200], bits(values))
    assert not decoded(filled)[150:].any() and not decoded(filled)[:, 200:].any()


def test_filled_sides_and_turned_weights_give_the_same_product() -> None:
    a, b = quantise(normal(70, 300), TOKENS), quantise(normal(200, 300, seed=1), WEIGHTS)
    filled = Blocks(whole(b.values, 128, 128), b.scales, WEIGHTS)
    wide = Blocks(whole(a.values, 16, 128), tile_scales(a.scales, 10), TOKENS)
    assert torch.equal(emulated(wide, filled)[:70, :200], emulated(a, b)) or torch.allclose(
        emulated(wide, filled)[:70, :200], emulated(a, b), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(turned(b).expanded(), b.expanded().T)
    assert multiply(a, b, torch.bfloat16).dtype == torch.bfloat16
