"""The probes of a weight sync, asked of a live vLLM engine."""

from collections.abc import Callable, Sequence
from typing import Any

from engine.sync_check import PROBE_REPLY_TOKENS, Probe, SyncReport, largest_difference

# (prompts, vLLM's sampling parameters) -> vLLM's outputs, in order
Run = Callable[[Sequence[Sequence[int]], Any], list[Any]]


def probe_report(run: Run, probes: Sequence[Probe]) -> SyncReport:
    """Sample a little after each probe, then score probe and sample as one prompt.

    The scores of the probe are compared with the sender's, those of the sample with what the engine
    said while it sampled, token by token.
    """
    from vllm.sampling_params import (  # noqa: PLC0415 - heavy
        RequestOutputKind,
        SamplingParams,
    )

    fixed = {
        "temperature": 1.0, "seed": 1, "flat_logprobs": True, "detokenize": False, "ignore_eos": True,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }  # fmt: skip
    sampling = SamplingParams(max_tokens=PROBE_REPLY_TOKENS, logprobs=0, **fixed)
    # With prompt_logprobs vLLM passes its prefix cache by: a stale one shows as a difference.
    scoring = SamplingParams(max_tokens=1, prompt_logprobs=0, **fixed)
    replies = [output.outputs[0] for output in run([p.token_ids for p in probes], sampling)]
    whole = [[*p.token_ids, *r.token_ids] for p, r in zip(probes, replies, strict=True)]
    scores = [output.prompt_logprobs.logprobs for output in run(whole, scoring)]
    probe_errors, decode_errors = [0.0], [0.0]
    for probe, reply, score in zip(probes, replies, scores, strict=True):
        known = len(probe.logprobs)
        probe_errors.append(largest_difference(score[:known], probe.logprobs))
        decode_errors.append(largest_difference(reply.logprobs.logprobs, score[known:]))
    return SyncReport(max(probe_errors), max(decode_errors))
