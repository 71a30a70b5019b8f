"""FP8 in a whole model: which products, isolation, state, refusals, hardware, the plan."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM

from model import cost
from model.fp8 import products
from model.fp8.config import Fp8Config
from model.fp8.linear import (
    BlockLinear,
    chosen,
    convert,
    projections,
    scales_are_a_tokens_own,
)
from model.hybrid import build_config, load_model, save_model
from model.layers.isolation import IsolationError, check_isolation
from model.presets import shape
from model.sharding.shard import set_activations
from pretrain.config import PretrainConfig
from pretrain.train import Trainer, TrainingHooks
from sft.config import SftConfig
from tests import tiny_training as tiny
from tests.unit.distributed.test_state import Counting, config
from tests.unit.model.packed_hybrids import awake, layouts, random_ids, tiny_config
from workbench.checkpoint import Checkpoints
from workbench.distributed.state import load_latest
from workbench.errors import UserError
from workbench.load import TrainingLoad

CPU = torch.device("cpu")
HOW = Fp8Config(others="fp32")


def meta(preset: str) -> Any:
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(build_config(preset))


@pytest.mark.parametrize(
    ("preset", "converted", "all_products"),
    # [derived] Mamba and feed-forward layers have two products, attention four:
    # 28 x 2 + 28 x 2 + 6 x 4 = 136; the 9B 27 x 2 + 25 x 2 + 4 x 4 = 120; the miniature 3 and 4 and 1.
    [("nano2-12b", 128, 136), ("nano2-9b", 112, 120), ("miniature", 12, 20)],
)
def test_products_but_the_first_and_last_four(
    preset: str, converted: int, all_products: int
) -> None:
    """[paper] the first and last four stay in bf16: two layers at each end, a Mamba and a feed-forward."""
    model = meta(preset)
    names, middle = list(projections(model)), chosen(model, 4)
    assert (len(middle), len(names)) == (converted, all_products)
    first, last = names[:4], names[-4:]
    if preset != "miniature":
        assert [n.split(".", 1)[1].rpartition(".")[2] for n in first] == ["in_proj", "out_proj", "up_proj", "down_proj"]  # fmt: skip
        assert last[2].endswith("up_proj") and last[3].endswith("down_proj")
    assert not {*first, *last} & set(middle) and len({*first, *middle, *last}) == all_products
    load = TrainingLoad(tokens=1, row_tokens=8192, precision="fp8")
    shares = cost.quantised_shares(shape(preset), load)
    counts = [layer.number for layer in cost.products(shape(preset))]
    assert sum(s * c for s, c in zip(shares, counts, strict=True)) == converted


def test_the_plan_counts_the_products_that_are_converted() -> None:
    """[derived] the parameters of every converted matrix of the 12B, against transformers' own model."""
    model = meta("nano2-12b")
    whole = sum(model.base_model.get_submodule(n).weight.numel() for n in chosen(model, 4))
    s = shape("nano2-12b")
    load = TrainingLoad(tokens=1, row_tokens=8192, precision="fp8")
    pairs = zip(cost.products(s), cost.quantised_shares(s, load), strict=True)
    assert sum(p.parameters * share for p, share in pairs) == whole
    # A token's FLOPs are two a parameter of each.
    assert cost.fp8_share(s, load) == pytest.approx(2 * whole / cost.forward_flops(s, 8192))


def test_memory_of_fp8_by_hand() -> None:
    """[derived] fsdp: of the largest layer two copies and one turned at a byte and a gradient twice in fp32,
    11 bytes a parameter; bf16 has 10. One process: the quantised weights take a byte less than cast ones."""
    s = shape("nano2-12b")
    spread = {"tokens": 1, "row_tokens": 8192, "workers": 64, "strategy": "fsdp"}

    def buffers(precision: Any, **layout: Any) -> int:
        load = TrainingLoad(precision=precision, **layout)
        return cost.training_memory(s, load).buffers

    largest = 2 * 5120 * 20480
    assert buffers("fp8", **spread) - buffers("bf16", **spread) == largest
    alone = {"tokens": 1, "row_tokens": 8192}
    model = meta("nano2-12b")
    whole = sum(model.base_model.get_submodule(n).weight.numel() for n in chosen(model, 4))
    assert buffers("bf16", **alone) - buffers("fp8", **alone) == whole
    # A feed-forward layer keeps its two inputs at 1 + 4/128 bytes where bf16 keeps 2.
    loads = [TrainingLoad(precision=p, **alone) for p in ("bf16", "fp8")]
    bf16, fp8 = (cost._layers_bytes(s, load) for load in loads)
    middle = next(i for i, kind in enumerate(s.pattern) if kind == "-" and i > 4)
    assert bf16[middle] - fp8[middle] == round((5120 + 20480) * (2 - 1 - 4 / 128))
    assert bf16[0] == fp8[0]


def test_a_model_with_too_few_products_says_so() -> None:
    model = load_model(tiny_config("M*"), seed=0)
    with pytest.raises(UserError, match="6 matrix products and the first and last 4"):
        convert(model, Fp8Config(), CPU)


@pytest.mark.parametrize("ends", [0, 4])
def test_isolation_holds_and_fails_for_one_scale_a_matrix(ends: int) -> None:
    model = awake(load_model(tiny_config(), seed=0))
    plain = copy.deepcopy(model)
    names = convert(model, Fp8Config(ends=ends), CPU)
    assert len(names) == 10 - 2 * ends
    ids = random_ids((2, 40))
    moved = model(input_ids=ids).logits - plain(input_ids=ids).logits
    assert 1e-3 < float((moved.norm() / plain(input_ids=ids).logits.norm()).detach()) < 0.2
    check_isolation(model, "fp32")
    tensor = awake(load_model(tiny_config(), seed=0))
    convert(tensor, Fp8Config(ends=ends, granularity="tensor"), CPU)
    with pytest.raises(IsolationError, match="share FP8 scales"):
        check_isolation(tensor, "fp32")


@pytest.mark.parametrize("scales", ["pow2", "fp32"])
def test_scales_are_a_tokens_own_in_both_kinds(scales: Any) -> None:
    state = torch.random.get_rng_state()
    assert scales_are_a_tokens_own(Fp8Config(scales=scales), CPU)
    assert not scales_are_a_tokens_own(Fp8Config(scales=scales, granularity="tensor"), CPU)
    assert torch.equal(state, torch.random.get_rng_state())


# 20 x 52 = 1,040 layouts, as of the model without FP8.
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[] if n % 5 == 4 else pytest.mark.stress) for n in range(20)])  # fmt: skip
def test_random_layouts_in_fp8(seed: int) -> None:
    length = (1, 2, 3, 5, 31, 32, 33, 47, 63, 64, 65, 70, 75, 80, 90, 95, 96, 97, 100, 101)[seed]
    model = awake(load_model(tiny_config(), seed=0)).eval()
    convert(model, Fp8Config(ends=0), CPU)
    ids, seq_idx = random_ids((52, length), seed), layouts(52, length, seed)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    packed = model(inputs_embeds=embeddings, seq_idx=seq_idx).logits
    at = torch.randint(length, (52, 1), generator=torch.Generator().manual_seed(seed))
    mine = seq_idx == seq_idx.gather(1, at)
    (grad,) = torch.autograd.grad(packed[mine].square().sum(), embeddings)
    assert not grad[~mine].any()
    assert grad[mine].any(-1).all()
    with torch.no_grad():
        changed = model(torch.where(mine, (ids + 7) % 64, ids), seq_idx=seq_idx).logits
    assert torch.equal(changed[~mine], packed[~mine])


def test_checkpointed_activations_give_the_same_gradients() -> None:
    found = []
    for how in ("keep", "checkpoint"):
        model = load_model(build_config(**tiny.SIZES), seed=3).train()
        convert(model, Fp8Config(ends=2), CPU)
        set_activations(model, how)  # type: ignore[arg-type]
        batch = tiny.rows(0)
        model(input_ids=batch.input_ids, seq_idx=batch.seq_idx).logits.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(g, found[1][name]) for name, g in found[0].items())


def test_a_checkpoint_is_a_plain_one_and_masters_are_fp32(tmp_path: Path) -> None:
    model = load_model(tiny_config(), seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert(model, Fp8Config(ends=0), CPU)
    model(input_ids=random_ids((1, 8))).logits.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())  # type: ignore[union-attr]
    save_model(model, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not any(isinstance(module, BlockLinear) for module in plain.modules())
    assert "quantization_config" not in (tmp_path / "model" / "config.json").read_text()
    found = plain.state_dict()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def trainer(where: Path, precision: str) -> tuple[Trainer, Checkpoints]:
    model = load_model(build_config(**tiny.SIZES), seed=3)
    settings = config(precision=precision, fp8=Fp8Config(ends=2, others="fp32"))
    if settings.quantised:
        convert(model, settings.quantised, CPU)
    from pretrain.rows import RowStream

    return Trainer(model, RowStream(Counting(), 48), settings), Checkpoints(where)


def test_a_training_in_fp8_continues_to_the_bit(tmp_path: Path) -> None:
    """Stopped after four of six steps and continued in a new trainer; and FP8 is not full precision."""

    def fit(own: Trainer, saves: Checkpoints, until: int) -> None:
        hooks = TrainingHooks(lambda *_: None, lambda *_: None, lambda: own.step >= until)
        own.fit(hooks, saves)

    whole, saves = trainer(tmp_path / "whole", "fp8")
    fit(whole, saves, 6)
    first, saves = trainer(tmp_path / "parts", "fp8")
    fit(first, saves, 4)
    second, saves = trainer(tmp_path / "parts", "fp8")
    state = load_latest(tmp_path / "parts", second.model, second.optimizer)
    assert state is not None and state["step"] == 4
    second.load_state_dict(state)
    fit(second, saves, 6)
    ours, theirs = second.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    full, saves = trainer(tmp_path / "full", "fp32")
    fit(full, saves, 6)
    assert not torch.equal(
        full.model.state_dict()["lm_head.weight"], whole.model.state_dict()["lm_head.weight"]
    )


@pytest.mark.parametrize(
    ("capability", "cuda", "says"),
    [
        ((8, 0), "13.0", "A card is SM8.0 and has no FP8; set precision: bf16"),
        ((8, 6), "13.0", "A card is SM8.6 and has no FP8; set precision: bf16"),
        ((8, 9), "13.0", "SM8.9 and has FP8 without blocks of 128 in torch"),
        ((10, 0), "13.0", "SM10.0 and has FP8 without blocks of 128 in torch"),
        ((9, 0), "12.8", "needs torch with CUDA 12.9 or newer"),
        ((9, 0), "12.9", None),
        ((9, 0), "13.0", None),
    ],
)
def test_hardware_without_it_is_refused_in_a_line(
    capability: tuple[int, int], cuda: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[source: ScaledBlas.cpp] blocks of 128 are for SM90 and cuBLASLt 12.9 or newer alone."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = products.why_not(torch.device("cuda", 0))
    assert found is None if says is None else says in str(found) and "\n" not in str(found)
    if says:
        with pytest.raises(UserError):
            products.check_device(torch.device("cuda", 0))
    assert products.why_not(CPU) is None


def test_a_card_that_multiplies_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "on_card", lambda a, b, dtype: products.emulated(a, b).to(dtype))
    products.check_card.cache_clear()
    found = products.check_card(CPU)
    assert len(found) == 6 and max(found.values()) < 4e-3
    products.check_card.cache_clear()
    rough = lambda a, b, dtype: 1.01 * products.emulated(a, b).to(dtype)  # noqa: E731
    monkeypatch.setattr(products, "on_card", rough)
    with pytest.raises(UserError, match="differ from their emulation"):
        products.check_card(CPU)


BASE: dict[str, Any] = {
    "kind": "sft", "precision": "fp8",
    "parts": {"a": {"source": {"type": "world", "domain": "math"}, "samples": 2}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora": {}}, "lora with precision fp8"),
        ({"distributed": {"workers": 2, "strategy": "zero3"}}, "zero3 with precision fp8"),
        ({"distributed": {"workers": 2, "strategy": "zero2"}}, "zero2 with precision fp8"),
        ({"fp8": {"granularity": "tensor"}}, "for comparisons of pretrain"),
        ({"precision": "bf16", "fp8": {"ends": 2}}, "needs precision: fp8, not bf16"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SftConfig.read({**BASE, **changes}, where="stages.sft")
    SftConfig.read({**BASE, "distributed": {"workers": 2, "strategy": "fsdp"}}, where="stages.sft")


def test_one_scale_a_matrix_is_for_one_process() -> None:
    blend = {"sources": {"a": {"type": "world", "domain": "math"}}, "phases": [{"until": 1, "weights": {"a": 1}}]}  # fmt: skip
    body = {
        "kind": "pretrain", "total_tokens": 64, "row_tokens": 8, "rows_per_step": 4, "blend": blend,
        "precision": "fp8", "fp8": {"granularity": "tensor"},
    }  # fmt: skip
    assert PretrainConfig.read(body, where="s").computed == "bf16"
    spread = {"workers": 2, "strategy": "fsdp"}
    with pytest.raises(UserError, match="for comparison, in one process"):
        PretrainConfig.read({**body, "distributed": spread}, where="s")


def test_other_layers_are_refused_by_name() -> None:
    class Adapted(nn.Linear):
        """Not a plain layer."""

    model = SimpleNamespace(base_model=nn.Sequential(Adapted(4, 4)))
    with pytest.raises(UserError, match="0 is a Adapted"):
        convert(model, Fp8Config(ends=0), CPU)
