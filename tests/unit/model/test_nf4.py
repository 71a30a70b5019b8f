"""A base in 4 bits: bitsandbytes' own numbers, isolation, a training on it, and what is saved and sent."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from model.hybrid import build_config, load_model, save_model
from model.layers.isolation import check_isolation
from model.lora import (
    adapter_parameters,
    adapter_tensors,
    adapters_off,
    add_adapters,
    load_base,
    load_trained_state,
    merge_adapters,
    merged_wide,
    target_modules,
    trained_state,
)
from model.lora_config import LoraConfig
from model.nf4 import Nf4Linear, in_4_bits, quantise
from rl.dpo import stage as dpo_stage
from rl.loop import Grpo
from tests.tiny_training import Words
from tests.unit.rl import test_dpo, test_validated_trainers
from tests.unit.rl.test_grpo_state import Watch
from tests.unit.rl.test_grpo_state import grpo as state_grpo
from workbench.checkpoint import Checkpoints

HOW = LoraConfig(rank=2, alpha=4, base="nf4")
HYBRID: dict[str, Any] = {
    "pattern": "M*-M", "hidden_size": 32, "intermediate_size": 72, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 97,
}  # fmt: skip
IDS = torch.randint(3, 97, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def package() -> Any:
    """It is optional (requirements/4bit.txt); what needs none of it is in test_nf4_plan.py."""
    return pytest.importorskip("bitsandbytes")


@pytest.fixture(params=["hybrid", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config: Any = build_config(**HYBRID)
    if request.param == "llama":
        config = LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
    return save_model(load_model(config, seed=0, dtype="bfloat16"), tmp_path / "model", Words())


def adapted(folder: Path) -> Any:
    torch.manual_seed(7)
    return add_adapters(load_base(folder, HOW, "cpu"), HOW)


def trained(folder: Path, steps: int = 12) -> tuple[Any, list[float]]:
    """Steps on one batch, with autocast as a stage on bf16 has it."""
    model = adapted(folder).train()
    optimizer = torch.optim.AdamW(adapter_parameters(model), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return model.eval(), losses


@pytest.mark.parametrize("sizes", [(64, 96), (13, 10), (1, 5)])
def test_a_layer_says_what_bitsandbytes_own_does(sizes: tuple[int, int], package: Any) -> None:
    """Output and the input's gradient, also with a bias and where blocks do not divide the weights."""
    rows, columns = sizes
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows)
    theirs = package.nn.Linear4bit(columns, rows, quant_type="nf4", compute_dtype=torch.float32)
    theirs.weight = package.nn.Params4bit(
        layer.weight.detach().bfloat16(), requires_grad=False, quant_type="nf4", blocksize=64,
        compress_statistics=True,
    )  # fmt: skip
    theirs.bias = nn.Parameter(layer.bias.detach().clone())
    theirs.to("cpu")
    weight = layer.weight.detach().clone()
    quantise(nn.ModuleDict({"one": layer}), ["one"], "cpu")
    assert type(layer) is Nf4Linear and layer.codes.dtype == torch.uint8
    x = torch.randn(4, columns)
    found, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs_weight = package.functional.dequantize_4bit(
        theirs.weight.data, theirs.weight.quant_state
    )
    assert torch.equal(layer.weight, theirs_weight)
    ours, said = layer(found), theirs(wanted)
    plain = nn.functional.linear(x, theirs_weight.float(), theirs.bias)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    for out in (ours, said):
        out.sum().backward()
    # Theirs multiplies by the weight before it is rounded to bf16, which ours is saved as.
    rounding = float(layer.weight.abs().max()) * 2**-8
    torch.testing.assert_close(ours, said, atol=rounding * columns, rtol=0)
    torch.testing.assert_close(found.grad, wanted.grad, atol=rounding * rows, rtol=0)
    # 16 levels of -1..1 times the largest of a block: the widest gap is 0.304 [paper, appendix E].
    largest = weight.abs().max()
    assert 0 < float((layer.weight - weight).abs().max()) < 0.2 * float(largest)


def test_projections_alone_are_in_4_bits(folder: Path) -> None:
    model = load_base(folder, HOW, "cpu")
    plain = load_model(folder, dtype="bfloat16")
    few = {name for name, m in model.named_modules() if isinstance(m, Nf4Linear)}
    out = {n for n, _ in plain.named_modules() if n.endswith("mixer.out_proj")}
    assert few == set(target_modules(plain)) | out
    kept = dict(model.named_parameters())
    assert {
        n.removesuffix(".weight") for n in dict(plain.named_parameters()) if n not in kept
    } == few
    assert all(torch.equal(kept[n], p) for n, p in plain.named_parameters() if n in kept)
    # Its state is what it stands for, under the names and in the type of its checkpoint.
    state, was = model.state_dict(), plain.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in state.items()} == {
        n: (t.shape, t.dtype) for n, t in was.items()
    }
    assert {n.removesuffix(".weight") for n in was if not torch.equal(state[n], was[n])} == few


def test_documents_are_isolated(folder: Path) -> None:
    model = load_base(folder, HOW, "cpu")
    check_isolation(model, "fp32")
    check_isolation(add_adapters(model, HOW), "fp32")


def test_training_lowers_the_loss_and_the_base_stays(folder: Path) -> None:
    start = load_base(folder, HOW, "cpu").state_dict()
    model, losses = trained(folder)
    assert losses[-1] < losses[0] - 0.1
    with adapters_off(model), torch.no_grad():
        before = load_base(folder, HOW, "cpu").eval()(input_ids=IDS).logits
        assert torch.equal(model(input_ids=IDS).logits, before)
    left = {
        n.replace(".base_layer", ""): t for n, t in model.state_dict().items() if "lora" not in n
    }
    assert all(torch.equal(left[name], tensor) for name, tensor in start.items())


def test_the_merged_model_is_what_4_bits_stand_for_and_the_adapters(
    folder: Path, tmp_path: Path
) -> None:
    base = load_base(folder, HOW, "cpu").state_dict()
    model, _ = trained(folder)
    deltas = {
        name: 2.0 * (m.lora_B["default"].weight @ m.lora_A["default"].weight).detach()
        for name, m in model.named_modules()
        if hasattr(m, "lora_A") and hasattr(m, "base_layer")
    }
    sent = dict(merged_wide(model))
    with torch.no_grad():
        said = model(input_ids=IDS).logits
    saved = save_model(merge_adapters(model), tmp_path / "merged")  # type: ignore[arg-type]
    read = AutoModelForCausalLM.from_pretrained(saved, dtype="auto").eval()
    assert {p.dtype for p in read.parameters()} == {torch.bfloat16}
    for name, tensor in read.named_parameters():  # a tied head is its embedding, in a sync as well
        delta = deltas.get(name.removesuffix(".weight"), torch.zeros(()))
        wanted = base[name].float() + delta
        assert torch.equal(tensor, wanted.bfloat16()), name
        assert torch.equal(sent[name].float(), wanted), name  # an engine gets it unrounded
    with torch.no_grad():
        assert float((read(input_ids=IDS).logits - said).abs().max()) < 0.05 * float(
            said.abs().max()
        )


def test_a_state_holds_adapters_alone_and_continues_to_the_bit(folder: Path) -> None:
    model, _ = trained(folder)
    state = copy.deepcopy(trained_state(model))
    assert state and all("lora_" in name for name in state)
    again = adapted(folder).eval()
    load_trained_state(again, state)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    # A whole state (a Trainer's checkpoint) is taken as well; of the frozen base it changes nothing.
    third = adapted(folder).eval()
    third.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(third(input_ids=IDS).logits, model(input_ids=IDS).logits)


def on_4_bits(**settings: Any) -> Grpo:
    plain = state_grpo(num_steps=2, **settings)
    torch.manual_seed(7)
    model = quantise(plain.model, [*target_modules(plain.model)], "cpu")
    config = plain.config.model_copy(update={"lora": HOW})
    return Grpo(add_adapters(model, HOW), plain.sampler, plain.pool._conversations, config, seed=1)


def test_grpo_sends_adapters_and_continues_to_the_bit(tmp_path: Path) -> None:
    whole = on_4_bits()
    assert whole.fit(Watch(whole).hooks(), Checkpoints(tmp_path / "whole"))
    given = whole.sampler.engine.given[-1][1]  # type: ignore[union-attr,attr-defined]
    sent = dict(adapter_tensors(whole.model))
    assert given.keys() == sent.keys()
    assert all(torch.equal(given[name], sent[name]) for name in sent)
    first = on_4_bits()
    assert first.fit(Watch(first, stop_at=1).hooks(), Checkpoints(tmp_path)) is False
    second = on_4_bits()
    assert second.resume(tmp_path)
    assert second.fit(Watch(second).hooks(), Checkpoints(tmp_path))
    state = second.model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in whole.model.state_dict().items())
    assert in_4_bits(second.model)


@pytest.mark.parametrize("kind", ["sft", "offline_dpo", "kto", "reward_model"])
def test_stages_of_every_trainer_take_such_a_base(
    kind: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = test_validated_trainers.section
    own = {"lora": {"rank": 2, "alpha": 4, "base": "nf4"}, "validation": None}
    monkeypatch.setattr(test_validated_trainers, "section", lambda *args: plain(*args) | own)
    monkeypatch.setattr(test_validated_trainers, "STEPS", 2)
    context = test_validated_trainers.context(tmp_path, tokenizer, kind)
    test_validated_trainers.KINDS[kind](context)
    context.close()
    left_in_bfloat16(context.stage_dir / "adapter", context.stage_dir / "model")


def left_in_bfloat16(adapter: Path, model: Path) -> None:
    """Whether the adapters have learnt, and the model's file is in the type of its base."""
    learnt = load_file(adapter / "adapter_model.safetensors")
    assert any(bool(tensor.any()) for name, tensor in learnt.items() if "lora_B" in name)
    saved = load_file(model / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_dpo_takes_such_a_base_round_after_round(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round quantises what the first one left, and the end keeps the type."""
    engine = test_dpo._engine(tokenizer)
    monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
    context = test_dpo._context(tmp_path, tokenizer, lora=HOW.model_dump(), lr=1e-2)
    dpo_stage.run(context)
    context.close()
    assert len(context.outputs["rounds"]) == 2
    for number in range(2):
        left_in_bfloat16(
            context.stage_dir / "rounds" / str(number) / "adapter", context.stage_dir / "model"
        )
    played, trained = (
        load_file(p / "model/model.safetensors")
        for p in (context.stage_dir / "checkpoints/round-0", context.stage_dir)
    )
    assert any(not torch.equal(played[name], tensor) for name, tensor in trained.items())
