"""Thinking budgets inside vLLM: one decoding pass, each request with a budget of its own.

    LLM(..., logits_processors=["budget.processor:ThinkingBudgetProcessor"])
    vllm serve MODEL --logits-processors budget.processor:ThinkingBudgetProcessor

The budget comes with the request (`budget.requests`). A forced token is the only one with a finite
logit. Which tokens were forced is told afterwards by `budget.control.forced_mask`. Nothing is kept
that the request's own tokens do not say, so batch moves and preemption cannot confuse it.
"""

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from budget.control import BudgetRule, BudgetState
from budget.requests import BudgetRequest
from workbench.errors import UserError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

_PLACEHOLDER = -1
"""vLLM's id for a token that is sampled but not yet copied from the device."""


class _Sequence:
    """A request in the batch: its state, and how many of its output ids the state has seen."""

    def __init__(self, state: BudgetState, output_ids: list[int]) -> None:
        self.state = state
        self.output_ids = output_ids  # vLLM's own list, which grows
        self.seen = 0

    def forced(self) -> int | None:
        while self.seen < len(self.output_ids) and self.output_ids[self.seen] != _PLACEHOLDER:
            self.state.push(self.output_ids[self.seen])
            self.seen += 1
        return self.state.forced


class ThinkingBudgetProcessor(LogitsProcessor):
    """vLLM's interface to `BudgetRule`."""

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Refuse a request whose budget makes no sense (HTTP 400 under `vllm serve`)."""
        try:
            BudgetRequest.read(sampling_params.extra_args)
        except UserError as error:
            raise ValueError(str(error)) from None

    def __init__(
        self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool
    ) -> None:
        self._model_config = vllm_config.model_config
        self._sequences: dict[int, _Sequence] = {}
        self._tokenizer: Any = None

    def is_argmax_invariant(self) -> bool:
        """Greedy decoding is forced too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests into, within and out of the batch."""
        process_dict_updates(self._sequences, batch_update, self._new_sequence)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Force where the rule says so. logits [requests, vocabulary]."""
        rows, tokens, closed = [], [], []
        for row, sequence in self._sequences.items():
            token = sequence.forced()
            if token is not None:
                rows.append(row)
                tokens.append(token)
            elif sequence.state.phase == "closed":
                closed.append(row)
        for row in closed:
            del self._sequences[row]
        if rows:
            logits[rows] = float("-inf")
            logits[rows, tokens] = 0.0
        return logits

    def _new_sequence(
        self, params: "SamplingParams", prompt_ids: list[int] | None, output_ids: list[int]
    ) -> _Sequence | None:
        asked = BudgetRequest.read(params.extra_args)
        if asked is None:
            return None
        if prompt_ids is None:
            raise ValueError("a thinking budget needs a prompt of token ids, not of embeddings")
        rule = BudgetRule.for_tokenizer(
            self._load_tokenizer(), asked.budget, asked.grace, asked.rule
        )
        return _Sequence(rule.state(prompt_ids), output_ids)

    def _load_tokenizer(self) -> Any:
        # On first use: engines whose requests have no budget pay nothing.
        if self._tokenizer is None:
            from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

            config = self._model_config
            self._tokenizer = AutoTokenizer.from_pretrained(
                config.tokenizer,
                revision=config.tokenizer_revision,
                trust_remote_code=config.trust_remote_code,
            )
        return self._tokenizer
