"""Thinking budgets inside a real vLLM engine around a tiny random hybrid, and under `vllm serve`."""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from budget.client import complete, extra_body
from budget.control import BudgetRule, forced_mask
from budget.requests import BudgetRequest
from budget.vocabulary import vocabulary_of
from workbench.chat import prompt_ids

pytestmark = pytest.mark.integration

PROCESSOR = "budget.processor:ThinkingBudgetProcessor"
MAX_LEN = 512
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
    config = build_config(
        "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=MAX_LEN
    )
    load_model(config, seed=0).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[Any]:
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM

    engine = LLM(
        str(checkpoint),
        dtype="float32",
        max_model_len=MAX_LEN,
        max_num_seqs=16,
        enforce_eager=True,
        enable_prefix_caching=False,
        mamba_ssm_cache_dtype="float32",
        logits_processors=[PROCESSOR],
        seed=0,
    )
    yield engine
    del engine


def params(asked: BudgetRequest | None, seed: int, **others: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=others.pop("max_tokens", 60),
        seed=seed,
        ignore_eos=True,
        detokenize=False,
        extra_args=asked.extra_args() if asked else None,
        **others,
    )


def check(rule: BudgetRule, prompt: list[int], out: list[int]) -> int:
    """Every forced id stands where the rule wants it; returns how many were forced."""
    state = rule.state(prompt)
    for token in out:
        assert state.forced in (None, token)
        state.push(token)
    assert state.thinking_tokens <= rule.most_thinking_tokens
    return sum(forced_mask(prompt, out, rule))


def test_every_request_of_a_mixed_batch_obeys_its_own_budget(llm: Any) -> None:
    tokenizer = llm.get_tokenizer()
    known = vocabulary_of(tokenizer)
    rng = random.Random(0)
    newline = tokenizer.encode("\n", add_special_tokens=False)[0]
    user = [{"role": "user", "content": "q"}]
    prompts, asked, sampling = [], [], []
    for number in range(120):
        prompt = prompt_ids(user, thinking=rng.random() < 0.8, tokenizer=tokenizer)
        partial = [rng.randrange(20, len(tokenizer)) for _ in range(rng.choice((0, 0, 3, 300)))]
        request = BudgetRequest(
            rng.choice((0, 1, 8, 20, 310)), rng.choice((0, 5, 500)), rng.choice(("newline", "card"))
        )
        prompts.append({"prompt_token_ids": [*prompt, *partial]})
        asked.append(request if rng.random() < 0.8 else None)
        # Some prompts end inside a tag the model is about to finish by itself.
        if rng.random() < 0.1:
            prompts[-1]["prompt_token_ids"] += known.close_ids[
                : rng.randrange(len(known.close_ids))
            ]
        sampling.append(
            params(
                asked[-1], number, n=rng.choice((1, 3)), logit_bias={newline: rng.choice((-99, 2))}
            )
        )
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    forced = 0
    for output, own in zip(outputs, asked, strict=True):
        for sample in output.outputs:
            if own:
                rule = BudgetRule.for_tokenizer(tokenizer, own.budget, own.grace, own.rule)
                # A prompt may be over its budget already.
                state = rule.state(output.prompt_token_ids)
                before = state.thinking_tokens
                for token in sample.token_ids:
                    assert state.forced in (None, token)
                    state.push(token)
                after = state.thinking_tokens
                assert after <= max(rule.most_thinking_tokens, before + len(rule.close_ids) + 5)
                forced += sum(forced_mask(output.prompt_token_ids, sample.token_ids, rule))
    assert forced > 500
    assert max(len(o.outputs) for o in outputs) == 3


def test_a_request_without_a_budget_is_sampled_as_ever(llm: Any) -> None:
    tokenizer = llm.get_tokenizer()
    prompt = {
        "prompt_token_ids": prompt_ids([{"role": "user", "content": "q"}], tokenizer=tokenizer)
    }
    alone = llm.generate([prompt], [params(None, 7)], use_tqdm=False)[0].outputs[0].token_ids
    huge = params(BudgetRequest(400), 7)
    beside = llm.generate(
        [prompt] * 4,
        [params(BudgetRequest(0), 1), params(None, 7), huge, params(BudgetRequest(3, 0), 2)],
        use_tqdm=False,
    )
    assert beside[1].outputs[0].token_ids == alone
    assert beside[2].outputs[0].token_ids == alone  # the budget was never reached
    close = list(vocabulary_of(tokenizer).close_ids)
    assert list(beside[0].outputs[0].token_ids)[: len(close)] == close
    assert list(beside[3].outputs[0].token_ids)[3 : 3 + len(close)] == close


def test_greedy_decoding_is_forced_too(llm: Any) -> None:
    tokenizer = llm.get_tokenizer()
    prompt = prompt_ids([{"role": "user", "content": "q"}], tokenizer=tokenizer)
    rule = BudgetRule.for_tokenizer(tokenizer, 5, 2)
    sampling = params(BudgetRequest(5, 2), 0, temperature=0.0)
    out = llm.generate([{"prompt_token_ids": prompt}], [sampling], use_tqdm=False)[0].outputs[0]
    assert check(rule, prompt, list(out.token_ids)) == len(rule.close_ids)


def test_preemption_in_the_middle_of_a_trace_changes_nothing(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = llm.get_tokenizer()
    prompt = prompt_ids([{"role": "user", "content": "q"}], tokenizer=tokenizer)
    core = llm.llm_engine.engine_core.engine_core
    scheduler = core.scheduler
    preempted: list[str] = []
    inner = scheduler.schedule
    steps = 0

    def schedule(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        # As the scheduler itself does when memory runs out: the last running request has to wait.
        if steps % 7 == 0 and len(scheduler.running) > 3:
            victim = scheduler.running.pop()
            scheduler._preempt_request(victim, time.monotonic())
            preempted.append(victim.request_id)
        return inner(*args, **kwargs)

    requests = [BudgetRequest(budget, 4) for budget in range(2, 34)]
    prompts = [{"prompt_token_ids": prompt}] * len(requests)
    sampling = [params(request, number) for number, request in enumerate(requests)]
    calm = llm.generate(prompts, sampling, use_tqdm=False)
    monkeypatch.setattr(scheduler, "schedule", schedule)
    shaken = llm.generate(prompts, sampling, use_tqdm=False)
    assert len(preempted) > 5
    for request, before, after in zip(requests, calm, shaken, strict=True):
        rule = BudgetRule.for_tokenizer(tokenizer, request.budget, request.grace)
        assert check(rule, prompt, list(after.outputs[0].token_ids)) > 0
        assert check(rule, prompt, list(before.outputs[0].token_ids)) > 0


def test_a_senseless_budget_is_refused_when_asked(llm: Any) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    for extra, says in (
        ({"thinking_budget": -1}, "thinking_budget -1"),
        ({"thinking_budgets": 1}, "unknown request argument 'thinking_budgets'"),
    ):
        with pytest.raises(VLLMValidationError, match=says):
            llm.generate([{"prompt_token_ids": [1]}], [SamplingParams(extra_args=extra)])


def test_serve_takes_the_budget_with_the_request_and_streams(
    checkpoint: Path, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What `vllm serve` runs; the command itself looks for a package named vllm, and on a CPU it is
    # named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command += [str(checkpoint), "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--max-model-len", str(MAX_LEN), "--enforce-eager", "--no-enable-prefix-caching"]
    command += ["--logits-processors", PROCESSOR, "--served-model-name", "tiny"]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path}, stdout=log, stderr=log
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "serve.log")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        _streams(client)
        _samples_several(client, checkpoint)
        _needs_no_processor(client, checkpoint)
        with pytest.raises(openai.BadRequestError, match="thinking_budget -3"):
            client.completions.create(
                model="tiny", prompt="q", extra_body={"vllm_xargs": {"thinking_budget": -3}}
            )
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(1)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-3000:]}")


def _streams(client: openai.OpenAI) -> None:
    pieces = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "q"}],
        max_tokens=40,
        seed=0,
        stream=True,
        extra_body={"ignore_eos": True, **extra_body(6, 4)},
    )
    texts = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert len(texts) > 10
    assert "".join(texts).count("</think>") == 1


def _samples_several(client: openai.OpenAI, checkpoint: Path) -> None:
    """Requests at once, three samples each: every one obeys the budget of its own request."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = prompt_ids([{"role": "user", "content": "q"}], tokenizer=tokenizer)

    def sample(budget: int) -> list[list[int]]:
        done = client.completions.create(
            model="tiny",
            prompt=prompt,
            n=3,
            max_tokens=40,
            seed=budget,
            extra_body={"ignore_eos": True, "return_token_ids": True, **extra_body(budget, 2)},
        )
        return [choice.token_ids for choice in done.choices]  # type: ignore[attr-defined]

    budgets = (0, 3, 9, 20)
    with ThreadPoolExecutor(len(budgets)) as pool:
        replies = list(pool.map(sample, budgets))
    for budget, group in zip(budgets, replies, strict=True):
        rule = BudgetRule.for_tokenizer(tokenizer, budget, 2)
        assert len({tuple(ids) for ids in group}) == 3
        for ids in group:
            assert check(rule, prompt, ids) == len(rule.close_ids)


def _needs_no_processor(client: openai.OpenAI, checkpoint: Path) -> None:
    """The client's two calls, which any server understands."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    user = [{"role": "user", "content": "q"}]
    prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    reply = complete(
        client.completions.create,
        prompt,
        budget=8,
        max_tokens=30,
        model="tiny",
        seed=0,
        extra_body={"ignore_eos": True},
    )
    assert (reply.thinking_tokens, reply.total_tokens, reply.cut) == (8, 30, True)
    assert reply.text.count(".\n</think>\n\n") == 1
    assert reply.finish_reason == "length"
