"""The plan's peak of a training step against what torch allocates on a CPU: types, checkpoints, adapters, logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

import model.loss
from model import cost
from model.decoder import described
from model.hybrid import load_model
from model.logprobs import Truncation, linear_logprobs
from model.lora import add_adapters
from model.lora_config import LoraConfig
from model.loss import linear_cross_entropy, logit_slices
from model.packed import autocast
from model.sharding.shard import set_activations
from model.sizes import MOST_LOGITS, card_logits
from tests.unit.scripts.test_plan import QWEN3_8B
from workbench.load import TrainingLoad

TOKENS, VOCABULARY = 512, 8192
LLAMA: dict[str, Any] = {
    "num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY,
}  # fmt: skip


def peak(work: Callable[[], object]) -> int:
    """Most bytes that were allocated at once while it ran, over what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def values(tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a frozen output layer, targets."""
    hidden = torch.randn(tokens, 16, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(VOCABULARY, 16, dtype=dtype), torch.randint(VOCABULARY, (tokens,))


@pytest.mark.parametrize(("dtype", "each"), [(torch.float32, 4), (torch.bfloat16, 6)])
def test_a_loss_holds_what_the_plan_says_of_each_logit(dtype: torch.dtype, each: int) -> None:
    """[derived] fp32: the slice. bf16: the slice in fp32, and in bf16 before or after."""
    hidden, weight, labels = values(TOKENS, dtype)
    found = peak(lambda: linear_cross_entropy(hidden, weight, labels).backward())  # type: ignore[no-untyped-call]
    assert found == pytest.approx(each * model.loss.CPU_LOGITS, rel=0.03)


@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_hold_eight_bytes_of_each_logit(
    slices: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[derived] The slice in fp32, and once more where its sum of exponentials is taken. Of four slices no more
    than of one."""
    held = TOKENS * VOCABULARY // slices
    monkeypatch.setattr("model.logprobs.CPU_SCORED_LOGITS", held)
    hidden, weight, target = values(TOKENS, dtype)

    def work() -> None:
        logprobs, _ = linear_logprobs(hidden, weight, target, Truncation(0.7))
        logprobs.sum().backward()  # type: ignore[no-untyped-call]

    assert peak(work) == pytest.approx(cost.SCORED_BYTES * held, rel=0.04)


@pytest.mark.parametrize(
    ("precision", "activations", "rank", "output"),
    [
        ("fp32", "keep", None, "loss"),
        ("bf16", "keep", None, "loss"),
        ("bf16", "checkpoint", None, "loss"),
        ("bf16", "checkpoint", 8, "loss"),
        ("bf16", "checkpoint", 8, "logprobs"),
        ("fp32", "checkpoint", 8, "logprobs"),
    ],
)
def test_the_peak_of_a_step_is_the_planned_one(
    precision: Any, activations: Any, rank: int | None, output: Any
) -> None:
    made = AutoConfig.for_model("llama", **LLAMA)
    base = "bfloat16" if rank and precision == "bf16" else "float32"
    net: Any = load_model(made, seed=0).to(getattr(torch, base))
    if rank:
        add_adapters(net, LoraConfig(rank=rank, alpha=rank, base=base))
    set_activations(net, activations)
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(VOCABULARY, (1, TOKENS))

    def microbatch() -> None:
        with autocast(net, precision):
            hidden = net.base_model(
                input_ids=ids, seq_idx=torch.zeros_like(ids).int(), use_cache=False
            ).last_hidden_state[0]
            head = net.get_output_embeddings().weight
            if output == "loss":
                loss = linear_cross_entropy(hidden, head, ids[0])
            else:
                loss = -linear_logprobs(hidden, head, ids[0], Truncation())[0].sum()
        del hidden
        loss.backward()  # type: ignore[no-untyped-call]

    def step() -> None:
        microbatch()
        microbatch()  # beside the gradients of the first
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    lasting = sum(p.nbytes for p in net.parameters()) + sum(
        v.nbytes for state in optimizer.state.values() for v in state.values()
    )
    load = TrainingLoad(
        tokens=TOKENS, row_tokens=TOKENS, precision=precision, activations=activations,
        lora_rank=rank, base=base, output=output, step_tokens=2 * TOKENS,
    )  # fmt: skip
    planned = cost.training_memory(described(made.to_dict()), load)
    measured = lasting + peak(step)
    assert planned.device_bytes == pytest.approx(measured, rel=0.1)


def test_small_cards_hold_smaller_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """[derived] 8 bytes a logit within a 32nd of the card: 24e9 / 256 = 93.75e6, so 2^26; a power of two."""

    class Properties:
        total_memory = 24 * 10**9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    first, *_ = logit_slices(8192, 151_936, torch.device("cuda"))
    assert first == slice(0, 2**26 // 151_936)
    half, *_ = logit_slices(8192, 151_936, torch.device("cuda"), tables=2)
    assert half == slice(0, 2**25 // 151_936)
    assert [card_logits(gb * 1e9) for gb in (12, 24, 80, 141, 180)] == [
        2**25, 2**26, 2**28, 2**29, MOST_LOGITS
    ]  # fmt: skip


def test_a_cards_logits_are_in_the_plan() -> None:
    """[derived] Qwen3-8B's 151,936 words on 24 GB: 441 tokens a slice at 8 bytes, less what one layer of 4,096
    tokens holds where layers are computed again; 2^29 logits of a card of 141 GB at 6 bytes in a loss of 8,192."""
    s = described(QWEN3_8B)
    load = TrainingLoad(1, 8192, precision="bf16", step_tokens=16384)
    on_cpu, on_card = (cost.training_memory(s, load, card=card) for card in (None, 141e9))
    assert on_card.output - on_cpu.output == 6 * 151_936 * (2**29 // 151_936 - 2**20 // 151_936)
    scored = TrainingLoad(
        1, 512, precision="bf16", output="logprobs", lora_rank=8, step_tokens=1024
    )
    held = cost.training_memory(s, scored, card=24e9).output - 2 * 512 * 4096 * 2
    assert held == 8 * 151_936 * 441
