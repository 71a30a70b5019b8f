"""Probes for an engine in bf16: those that rounding alone moves are drawn again, by every process the same."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.sync_check import PROBE_DRAWS, probe_ids
from model.half import rounded_to_bf16
from rl import probes
from rl.probes import ask, drawing, scored

WORDS, TORN = 64, (3, 17, 40)
HOW: Any = {"longest": 64, "cached": False}


def torn_model(torn: tuple[int, ...] = TORN) -> LlamaForCausalLM:
    """A stream of embeddings alone. Behind a torn word the first two values of the stream are 257 and 256, which
    bf16 both holds as 256; the head multiplies their difference by so much that word 0 has a logit of 8."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        words, head = model.model.embed_tokens.weight, model.lm_head.weight
        words[:, :2] = 0
        head.mul_(0.1)
        for word in torn:
            words[word] = 0
            words[word, :2] = torch.tensor([257.0, 256.0])
        head[0] = 0
        # [derived] the norm divides by sqrt((257^2 + 256^2) / 32) = 64.1.
        head[0, 0], head[0, 1] = 8 * 64.125, -8 * 64.125
    return model.eval()


def first_fine(version: int) -> list[list[int]]:
    """By hand: of each probe the first draw in which no torn word stands before another word."""
    out = []
    for place in range(3):
        for number in range(PROBE_DRAWS):
            ids = probe_ids(WORDS, 60, version, [number] * 3)[place]
            if not set(ids[:-1]) & set(TORN):
                out.append(ids)
                break
    return out


def test_probes_that_rounding_moves_are_drawn_again_and_the_first_one_stays_the_same() -> None:
    model, again = torn_model(), 0
    for version in range(1, 13):
        draw = drawing(model, version=version, **HOW)
        full, half = ask(model, draw), ask(model, draw, half=True)
        assert [p.token_ids for p in full] == probe_ids(WORDS, 60, version)
        assert [p.token_ids for p in half] == first_fine(version)
        assert half == scored(model, [p.token_ids for p in half], half=True)
        again += [p.token_ids for p in half[1:]] != [p.token_ids for p in full[1:]]
        assert half[0].token_ids == first_fine(1)[0]
    assert 0 < again < 12


def test_rounding_moves_what_it_should_and_leaves_the_model_alone() -> None:
    model = torn_model()
    rows = [[3, 0], [5, 0]]
    before = scored(model, rows)
    with rounded_to_bf16(model), torch.no_grad():
        rounded = scored(model, rows)
    # [derived] word 0 of 64 by a logit of 8 or by none: -log(1 + 63 e^-8) and -log(64), the others' logits small.
    assert before[0].logprobs[0] == pytest.approx(-0.021, abs=0.01)
    assert rounded[0].logprobs[0] == pytest.approx(-4.16, abs=0.1)
    assert rounded[1].logprobs[0] == pytest.approx(before[1].logprobs[0], abs=0.02)
    assert scored(model, rows) == before


def test_where_no_draw_is_left_alone_the_least_moved_is_taken_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = torn_model(tuple(range(WORDS))), list[int]()
    draw = drawing(model, version=1, **HOW)

    moved = list[list[float]]()
    shaken = probes._shaken

    def counted(numbers: Any) -> list[list[int]]:
        calls.append(max(numbers))
        return draw(numbers)

    def seen(*given: Any) -> Any:
        found = shaken(*given)
        moved.append(found[1])
        return found

    monkeypatch.setattr(probes, "_shaken", seen)
    found = ask(model, counted, half=True)
    least = [min(range(PROBE_DRAWS), key=lambda n: moved[n][place]) for place in range(3)]
    assert len({tuple(by) for by in moved}) > 1
    assert [p.token_ids for p in found] == draw(least)
    assert calls[:-1] == list(range(PROBE_DRAWS)) and len(calls) == PROBE_DRAWS + 1
    assert [len(p.token_ids) for p in found] == [12, 6, 4]


def test_what_the_first_process_draws_again_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torn_model(())
    draw, told = drawing(model, version=1, **HOW), [[False, True, False]]

    def from_first(make: Any) -> Any:
        again, least = make()
        assert not any(again)  # here nothing is moved
        return (told.pop(), least) if told else (again, least)

    monkeypatch.setattr(probes.group, "from_first", from_first)
    found = ask(model, draw, half=True)
    assert [p.token_ids for p in found] == draw([0, 1, 0])
