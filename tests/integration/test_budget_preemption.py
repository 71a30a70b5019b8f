"""Budgets where vLLM runs out of memory: requests are thrown out in the middle of a trace.

The engine has a few blocks of cache only, and prompts end just below a block's end: as the replies
grow, each request wants one more block than there are. Nothing in the scheduler is replaced; its
preemptions are counted.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budget.control import BudgetRule, forced_mask
from budget.requests import BudgetRequest
from workbench.chat import prompt_ids

pytestmark = pytest.mark.integration

MAX_LEN, STREAMS, TOKENS = 512, 16, 48
PROMPT_TOKENS = 240
"""Below vLLM's block of 256 tokens on the CPU: every reply crosses its end while it thinks."""
BLOCKS = 67
"""A request takes four at first and a fifth from its 257th token on; one is vLLM's own."""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    os.environ.update(
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        OMP_WAIT_POLICY="PASSIVE",
    )
    path = tmp_path_factory.mktemp("tiny")
    _save_model(path)
    from vllm import LLM

    engine = LLM(
        str(path),
        dtype="float32",
        max_model_len=MAX_LEN,
        max_num_seqs=STREAMS,
        num_gpu_blocks_override=BLOCKS,
        kv_cache_memory_bytes=2**28,
        enforce_eager=True,
        enable_prefix_caching=False,
        mamba_ssm_cache_dtype="float32",
        logits_processors=["budget.processor:ThinkingBudgetProcessor"],
        seed=0,
    )
    yield engine
    del engine


def _save_model(path: Path) -> None:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
    config = build_config(
        "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=MAX_LEN
    )
    load_model(config, seed=0).save_pretrained(path)


def _prompt(tokenizer: Any) -> list[int]:
    def ids(letters: int) -> list[int]:
        return prompt_ids([{"role": "user", "content": "q" * letters}], tokenizer=tokenizer)

    return ids(PROMPT_TOKENS - len(ids(0)))


def _params(asked: BudgetRequest, seed: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=TOKENS,
        seed=seed,
        ignore_eos=True,
        detokenize=False,
        extra_args=asked.extra_args(),
    )


def test_budgets_hold_when_the_cache_is_too_small_for_the_batch(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = llm.get_tokenizer()
    prompt = _prompt(tokenizer)
    assert len(prompt) == PROMPT_TOKENS
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    preempted: list[tuple[str, int]] = []
    preempt = scheduler._preempt_request

    def counted(request: Any, *args: Any, **options: Any) -> Any:
        preempted.append((request.request_id, request.num_output_tokens))
        return preempt(request, *args, **options)

    # Budgets end before, at and after the places where requests are thrown out (16 tokens and on).
    asked = [BudgetRequest(budget, 4) for budget in range(4, 36)]
    sampling = [_params(request, number) for number, request in enumerate(asked)]
    alone = [
        llm.generate([{"prompt_token_ids": prompt}], [one], use_tqdm=False)[0] for one in sampling
    ]
    monkeypatch.setattr(scheduler, "_preempt_request", counted)
    crowded = llm.generate([{"prompt_token_ids": prompt}] * len(asked), sampling, use_tqdm=False)
    differing = inside = 0
    for request, calm, shaken in zip(asked, alone, crowded, strict=True):
        rule = BudgetRule.for_tokenizer(tokenizer, request.budget, request.grace)
        ids = list(shaken.outputs[0].token_ids)
        state = rule.state(prompt)
        for token in ids:
            assert state.forced in (None, token)
            state.push(token)
        assert len(ids) == TOKENS
        assert state.thinking_tokens <= rule.most_thinking_tokens
        assert sum(forced_mask(prompt, ids, rule)) > 0
        differing += ids != list(calm.outputs[0].token_ids)
        inside += any(
            name.split("-")[0] == shaken.request_id.split("-")[0] and sampled < request.budget
            for name, sampled in preempted
        )
    print(
        f"{len(preempted)} preemptions, {inside} in a trace, {differing} replies differ: {preempted}"
    )
    assert len(preempted) >= 3
    assert inside >= 2  # thrown out while they still thought
    assert differing == 0
