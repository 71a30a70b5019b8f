"""The vLLM engine on tiny random hybrids: the numbers it reports, its seeds, its weights."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.protocol import Request, Sampling, requests_of
from engine.throughput import tokens_per_second
from workbench.errors import UserError

pytestmark = pytest.mark.integration

MAX_LEN, MAX_BATCHED = 704, 1024
# With these seeds the stop id is not sampled within the tokens asked for.
ENDLESS = Sampling(max_tokens=60, seed=3, stop_token_ids=(0,))
Prompts = list[list[int]]


def make_checkpoint(path: Path, seed: int, **fields: Any) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
    sizes = {"hidden_size": 64, "max_position_embeddings": MAX_LEN, **fields}
    config = build_config("miniature", vocab_size=len(tokenizer), **sizes)
    # transformers' own model and saving: nothing of ours stands between it and vLLM.
    load_model(config, seed=seed).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("first"), seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def warm(checkpoint: Path) -> Iterator[Any]:
    from budget.engine import with_budgets
    from engine.vllm_engine import VllmEngine

    config = EngineConfig(
        max_model_len=MAX_LEN, max_num_seqs=16, max_num_batched_tokens=MAX_BATCHED
    )
    engine = VllmEngine(str(checkpoint), with_budgets(config))
    yield engine
    engine.close()
    engine.close()


@pytest.fixture
def engine(warm: Any, checkpoint: Path) -> Any:
    warm.load_checkpoint(str(checkpoint), version=0)
    return warm


def prompts(lengths: list[int], seed: int = 0) -> Prompts:
    made = torch.Generator().manual_seed(seed)
    return [torch.randint(20, 290, (n,), generator=made).tolist() for n in lengths]


def reference(folder: Path, prompt: list[int], reply: list[int], temperature: float) -> list[float]:
    """transformers' log-probabilities of the reply, without our code."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0]
    rows = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
    return rows.gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()


def assert_same_logprobs(engine: Any, folder: Path, asked: Prompts, sampling: Sampling) -> None:
    for prompt, group in zip(asked, engine.generate(asked, sampling), strict=True):
        for done in group:
            assert done.finish_reason in ("stop", "length")
            expected = reference(folder, prompt, done.token_ids, sampling.temperature)
            assert done.logprobs == pytest.approx(expected, abs=1e-5)


def test_logprobs_are_those_of_transformers_for_prompts_mixed_in_a_batch(
    engine: Any, checkpoint: Path
) -> None:
    # 1,900 prompt tokens against 1,024 a pass: more than fits, and a seed for each.
    asked = prompts([1, 2, 3, 4, 5, 31, 63, 64, 65, 127, 255, 256, 257, 300, 600])
    assert_same_logprobs(engine, checkpoint, asked, Sampling(max_tokens=24, seed=5))


def test_logprobs_are_of_the_distribution_sampled_from(engine: Any, checkpoint: Path) -> None:
    sampling = Sampling(max_tokens=12, seed=5, temperature=0.5)
    assert_same_logprobs(engine, checkpoint, prompts([9, 40]), sampling)
    greedy = engine.generate(prompts([9]), Sampling(max_tokens=8, temperature=0.5, top_k=1, seed=0))
    assert greedy[0][0].logprobs == pytest.approx([0.0] * len(greedy[0][0].token_ids))


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(engine: Any) -> None:
    asked = prompts([7, 30, 90])
    sampling = Sampling(max_tokens=20, n=3, seed=11)
    groups = engine.generate(asked, sampling)
    flat = [c.token_ids for group in groups for c in group]
    assert len({tuple(ids) for ids in flat}) == 9
    requests = requests_of(asked, sampling)
    alone = dict(engine.stream([requests[4]]))
    assert alone[0].token_ids == flat[4]
    backwards = dict(engine.stream(requests[::-1] + requests_of(prompts([50] * 20), sampling)))
    assert [backwards[8 - i].token_ids for i in range(9)] == flat
    assert engine.generate(asked, replace(sampling, seed=12)) != groups


def test_new_weights_are_the_ones_that_sample(engine: Any, other: Path) -> None:
    from transformers import AutoModelForCausalLM

    state = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32).state_dict()
    engine.update_weights(state.items(), version=7)
    asked = prompts([3, 70, 300])
    assert_same_logprobs(engine, other, asked, Sampling(max_tokens=16, seed=1))
    done = engine.generate(asked, Sampling(max_tokens=4, seed=1))[0][0]
    assert done.versions == [7] * len(done.token_ids)
    assert done.forced == [False] * len(done.token_ids)


def test_weights_that_are_not_the_models_change_nothing(
    engine: Any, checkpoint: Path, other: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    state = dict(AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32).state_dict())
    name = "model.layers.0.mixer.A_log"
    lacking = {k: v for k, v in state.items() if k != name}
    for wrong, says in (
        (lacking, f"missing: {name}"),
        (state | {"model.extra": torch.zeros(1)}, "unknown: model.extra"),
        (state | {name: torch.zeros(3)}, r"shape \(3,\)"),
        (state | {name: state[name].to(torch.int64)}, "int64"),
        (state | {name.replace("model.", "backbone."): state[name]}, "twice"),
    ):
        with pytest.raises(UserError, match=says):
            engine.update_weights(wrong.items(), version=9)
    wider = make_checkpoint(tmp_path / "wider", seed=0, hidden_size=128)
    with pytest.raises(UserError, match="has shape"):
        engine.load_checkpoint(str(wider), version=9)
    cut = tmp_path / "cut"
    shutil.copytree(other, cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut short or damaged"):
        engine.load_checkpoint(str(cut), version=9)
    assert_same_logprobs(engine, checkpoint, prompts([12]), Sampling(max_tokens=12, seed=1))


def test_tokens_carry_the_version_that_sampled_them(engine: Any, other: Path) -> None:
    from model.weights import load_tensors

    engine.submit(requests_of(prompts([10, 20]), ENDLESS))
    assert engine.poll(0.02) == []
    engine.update_weights(load_tensors(other), version=1)
    ended = []
    while engine.num_unfinished:
        ended += engine.poll(0.5)
    for _, done in ended:
        assert len(done.versions) == len(done.token_ids) == len(done.logprobs)
        assert done.versions == sorted(done.versions)
        assert set(done.versions) == {0, 1}


def test_a_stream_closed_early_leaves_the_engine_ready(engine: Any) -> None:
    short, long = replace(ENDLESS, max_tokens=2), ENDLESS
    requests = [Request([30, 31], short, seed=1)] + [Request([30, 32], long, seed=2)] * 3
    stream = engine.stream(requests)
    place, done = next(stream)
    assert (place, len(done.token_ids)) == (0, 2)
    stream.close()
    assert engine.num_unfinished == 0
    assert len(engine.generate([[40, 41]], short)[0][0].token_ids) == 2


def test_budgets_go_with_the_request_and_forced_tokens_are_marked(engine: Any) -> None:
    from budget.vocabulary import vocabulary_of
    from workbench.chat import prompt_ids

    close = list(vocabulary_of(engine._tokenizer).close_ids)
    prompt = prompt_ids([{"role": "user", "content": "q"}], tokenizer=engine._tokenizer)
    free = replace(ENDLESS, max_tokens=40)
    tight = replace(free, thinking_budget=6, thinking_grace=0)
    done = dict(engine.stream([Request(prompt, free, 1), Request(prompt, tight, 1)]))
    assert not any(done[0].forced)
    assert done[1].token_ids[:6] == done[0].token_ids[:6]
    assert done[1].token_ids[6 : 6 + len(close)] == close
    assert done[1].forced == [6 <= i < 6 + len(close) for i in range(len(done[1].token_ids))]
    assert done[1].logprobs[6 : 6 + len(close)] == [0.0] * len(close)


def test_stop_tokens_end_a_reply_and_stay_in_it(engine: Any) -> None:
    every = tuple(range(290))
    done = engine.generate([[30]], Sampling(max_tokens=9, seed=0, stop_token_ids=every))[0][0]
    assert (done.finish_reason, len(done.token_ids)) == ("stop", 1)
    quiet = engine.generate([[30]], Sampling(max_tokens=9, seed=0, logprobs=False))[0][0]
    assert quiet.logprobs == []
    assert quiet.token_ids[:1] == done.token_ids


def test_throughput_counts_replies_that_nothing_ends(engine: Any) -> None:
    """Every reply has all its tokens, where the same seeds let the model end some of them."""
    every = tuple(range(290))
    whole = Sampling(max_tokens=9, seed=0, to_the_end=True, stop_token_ids=every)
    assert [len(r[0].token_ids) for r in engine.generate([[30], [31]], whole)] == [9, 9]
    found = tokens_per_second(
        engine, vocab_size=290, prompt_tokens=5, new_tokens=6, batch=3, rounds=2
    )
    assert len(found) == 2 and all(rate > 0 for rate in found)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(engine: Any) -> None:
    for prompt in ([], [30] * MAX_LEN):
        with pytest.raises(UserError, match="the engine takes 1 to 703"):
            engine.generate([[30], prompt], Sampling(max_tokens=1))
    assert engine.num_unfinished == 0
