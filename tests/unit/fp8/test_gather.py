"""FP8 under FSDP2: what travels, that it is what one process quantises, and that training is the same."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from model.fp8 import gather
from model.fp8.blocks import quantise
from model.fp8.config import Fp8Config
from model.fp8.linear import BlockLinear, convert, quantised_weight, weight_block
from model.hybrid import load_model
from model.packed import Rows, token_loss_sum
from model.sharding.check import check_shards
from model.sharding.core import Core
from model.sharding.files import read_sharded
from model.sharding.shard import set_activations, whole
from pretrain.optimizer import adamw
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from tests.unit.distributed.test_equal import backward, trained
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh

HOW = Fp8Config(ends=2, others="fp32")
# Widths that are no multiples of 128: shards of 100 rows cut the first block, and 65 are uneven.
SIZES = {"hidden_size": 72, "intermediate_size": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("fp8"), **SIZES)


def sharded(folder: Path, where: DistributedConfig, activations: Any, precision: str) -> Core:
    mesh = make_mesh(where)
    model = read_sharded(folder, mesh, precision=precision, fp8=HOW)
    check_shards(model)
    set_activations(model, activations)
    return Core(model.train(), adamw(model.named_parameters(), lr=1e-3), mesh=mesh)


def worker(folder: Path, where: DistributedConfig, activations: str) -> Any:
    core = sharded(folder, where, activations, "fp32")
    loss = backward(core, 0, 1)
    found = tiny.gradients(core)
    core.model.zero_grad(set_to_none=True)
    return loss, found, trained(core, 3)


def alone(folder: Path) -> Core:
    core = tiny.alone(folder)
    convert(core.model, HOW, torch.device("cpu"))
    return core


@pytest.fixture(scope="module")
def one(folder: Path) -> Any:
    core = alone(folder)
    loss = backward(core, 0, 1)
    found = tiny.gradients(core)
    return loss, found, trained(alone(folder), 3)


LAYOUTS = [
    (tiny.layout(2), "keep"),
    (tiny.layout(2, context=2), "checkpoint"),
    *(
        pytest.param(tiny.layout(4, **how), "offload", marks=pytest.mark.stress)
        for how in ({}, {"context": 2}, {"replicate": 2})
    ),
]


@pytest.mark.parametrize(("where", "activations"), LAYOUTS)
def test_a_layout_in_fp8_equals_one_process(
    folder: Path, one: Any, where: DistributedConfig, activations: str
) -> None:
    """Later steps round weights that differ by fp32's last bit to other values of E4M3
    now and then, and Adam's first steps are signs."""
    for loss, gradients, weights in on_ranks(where.workers, worker, folder, where, activations):
        assert loss == pytest.approx(one[0], rel=1e-6)
        assert tiny.apart(gradients, one[1]) < 2e-6
        assert tiny.apart(weights, one[2]) < 2e-2


def gathered(folder: Path) -> Any:
    """Of each weight in FP8: (bytes of E4M3, scales) as the layer saw them, what travelled, and the masters."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    core = sharded(folder, tiny.layout(2), "keep", "bf16")
    names = {m: n for n, m in core.model.named_modules() if isinstance(m, BlockLinear)}
    handles = [m.register_forward_pre_hook(_keep(seen, n)) for m, n in names.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = Rows(*map(core.share, tiny.rows(0)))
        core.backward([lambda: token_loss_sum(core.model, mine, "bf16")])
    for handle in handles:
        handle.remove()
    sent = {}
    for group in _groups(core.model):
        for param in group.fsdp_params:
            if isinstance(param, gather._Fp8Param):
                (out,) = param.all_gather_outputs
                sent[names[param._module_info.module]] = (out.dtype, out.numel())
    masters = {n: whole(m.weight.detach()) for m, n in names.items()}
    grads = {n: (whole(m.weight.grad).dtype, m.weight.dtype) for m, n in names.items()}
    return seen, sent, masters, grads


def _groups(model: torch.nn.Module) -> list[Any]:
    modules = [m for m in model.modules() if isinstance(m, FSDPModule)]
    return [group for m in modules for group in m._get_fsdp_state()._fsdp_param_groups]


def _keep(seen: dict[str, Any], name: str) -> Any:
    def hook(module: BlockLinear, args: Any) -> None:
        blocks = module.weight.blocks  # type: ignore[union-attr]
        seen[name] = (blocks.values.view(torch.uint8).clone(), blocks.scales.clone())

    return hook


def test_what_travels_is_fp8_and_equals_gathering_first(folder: Path) -> None:
    for seen, sent, masters, grads in on_ranks(2, gathered, folder):
        assert len(seen) == 6 and seen.keys() == sent.keys()
        for name, (values, scales) in seen.items():
            wanted = quantised_weight(masters[name], HOW)
            assert torch.equal(values, wanted.values.view(torch.uint8)), name
            assert torch.equal(scales, wanted.scales), name
            rows, columns = masters[name].shape
            assert sent[name] == (torch.uint8, -(-rows // 2) * 2 * columns)
            assert grads[name] == (torch.float32, torch.float32)


def shares(count: int, rows: int, bad: bool) -> Any:
    """A matrix of so many rows cut as FSDP cuts it, quantised by share."""
    made = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, 200, generator=made) * torch.logspace(-2, 2, 200)
    if bad:
        matrix[rows - 1, 150] = torch.nan
    each = -(-rows // count)
    first = min(dist.get_rank() * each, rows)
    world = dist.group.WORLD
    assert world is not None
    values, scales = gather.share_of_blocks(
        matrix[first : first + each], first, matrix.shape, HOW, world
    )
    return matrix, values.view(torch.uint8), scales


@pytest.mark.parametrize("rows", [1, 127, 129, 300, 512])
@pytest.mark.parametrize("bad", [False, True])
def test_shares_that_cut_blocks_quantise_as_the_whole_does(rows: int, bad: bool) -> None:
    """One row leaves a process without any; a NaN in one share is seen in all of its block."""
    found = on_ranks(2, shares, 2, rows, bad)
    matrix = found[0][0]
    wanted = quantise(matrix, weight_block(matrix.shape, HOW))
    together = torch.cat([values for _, values, _ in found])
    assert torch.equal(together, wanted.values.view(torch.uint8))
    for _, _, scales in found:
        assert torch.equal(scales.isnan(), wanted.scales.isnan())
        assert torch.equal(scales.nan_to_num(), wanted.scales.nan_to_num())
    assert bool(wanted.scales.isnan().any()) is bad


def test_a_gathered_weight_is_its_blocks_to_other_code(folder: Path) -> None:
    weight = load_model(folder).lm_head.weight.detach()
    blocks = quantised_weight(weight, HOW)
    held = gather.GatheredWeight(blocks, torch.float32)
    assert torch.equal(held + 0, blocks.expanded()) and held.shape == weight.shape
    assert isinstance(torch.nn.Parameter(held), gather.GatheredWeight)
