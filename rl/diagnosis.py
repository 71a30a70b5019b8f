"""Where trainer and engine part: each layer of the trainer is run on what the engine's layer saw.

Comparing whole forward passes would only say that everything after the first wrong layer is wrong.
Fed the engine's own residual stream, a layer answers for itself alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from engine.protocol import Trace
from engine.sync_check import probe_limit

KINDS = {
    "linear_attention": "Mamba-2",
    "full_attention": "attention",
    "mlp": "feed-forward",
    "moe": "feed-forward",
}
# Relative error of what a layer adds to the stream; rounding stays a hundred times below.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


class LayerError(NamedTuple):
    """How far one part of the model differs. layer: its number, None outside the layers. prompt and
    reply: over the prompt's tokens and over those fed one by one (the engine's decoding path). largest: of the
    head, the size of the trainer's largest logit, which its limit grows with as a probe's does.

    Example: LayerError("Mamba-2", 3, 2e-7, 0.31)
    """

    kind: str
    layer: int | None
    prompt: float
    reply: float
    largest: float = 0.0

    @property
    def worst(self) -> float:
        """The larger of the two; infinite where one is not a number."""
        values = [v if v == v else float("inf") for v in (self.prompt, self.reply)]
        return max(values)


def compare(model: nn.Module, trace: Trace) -> list[LayerError]:
    """Each part of the model against the engine's: embedding, layers, head."""
    core: Any = model.base_model
    layers, streams = list(core.layers), trace.streams
    fed: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(_swap(streams, i, fed)) for i, layer in enumerate(layers)
    ]
    hooks += [layer.register_forward_hook(_keep(given)) for layer in layers]
    final = core.norm_f if hasattr(core, "norm_f") else core.norm
    hooks.append(final.register_forward_pre_hook(_swap(streams, len(layers), fed)))
    place = next(model.parameters()).device
    ids = torch.tensor(trace.token_ids[:-1], device=place)[None]
    try:
        with torch.no_grad():
            logits = model(
                input_ids=ids, seq_idx=torch.zeros_like(ids, dtype=torch.int32), use_cache=False
            ).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    split = trace.num_prompt
    out = [LayerError("embedding", None, *_errors(fed[0].cpu(), streams[0], fed[0].cpu(), split))]
    for number, (layer, mine) in enumerate(zip(layers, given, strict=True)):
        kind = KINDS.get(getattr(layer, "block_type", ""), "decoder")
        added = mine - streams[number]
        out.append(LayerError(kind, number, *_errors(mine, streams[number + 1], added, split)))
    rows = logits[split - 1 :].float().log_softmax(-1)
    chosen = torch.tensor(trace.token_ids[split:], device=place)
    own = rows.gather(1, chosen[:, None])[:, 0].cpu()
    gaps = (own - torch.tensor(trace.logprobs)).abs()
    # The first token of the reply was sampled from the prompt's last position.
    reply, largest = float(gaps[1:].max()) if len(gaps) > 1 else 0.0, float(logits.abs().max())
    return [*out, LayerError("head", None, float(gaps[0]), reply, largest)]


def explain(errors: Sequence[LayerError], dtype: str) -> str:
    """One line: which kinds of layers differ and by how much, and how far the others agree."""
    wrong = [e for e in errors if not e.worst <= _limit(e, dtype)]
    kinds = list(dict.fromkeys(e.kind for e in errors))
    bad = {e.kind for e in wrong}
    parts = []
    for kind in [k for k in kinds if k in bad]:
        mine = [e for e in wrong if e.kind == kind]
        numbers = sorted({e.layer for e in mine if e.layer is not None})
        where = f" (layer {', '.join(map(str, numbers))})" if numbers else ""
        unit = " nats" if kind == "head" else ""
        prompt, reply = (max(getattr(e, side) for e in mine) for side in ("prompt", "reply"))
        parts.append(
            f"{kind}{where} by {prompt:.2g}{unit} on prompts, {reply:.2g}{unit} in decoding"
        )
    rest = [k for k in kinds if k not in bad]
    agree = ", ".join(f"{k} {max(e.worst for e in errors if e.kind == k):.1g}" for k in rest)
    if not wrong:
        return (
            f"fed the same inputs at temperature 1, every layer agrees ({agree}): compare the "
            "sampling settings of the two, and what the engine keeps between requests"
        )
    return f"layers that differ: {'; '.join(parts)}" + (
        f". The others agree: {agree}" if agree else ""
    )


def diagnose(model: nn.Module, traces: Sequence[Trace], dtype: str) -> str:
    """`explain` over some traces, each part by its worst."""
    found = [compare(model, trace) for trace in traces]
    if not found:
        return (
            "which layers differ is not known: an engine keeps a trace only where it is one process and runs "
            "its layers one by one (on a card: engine.vllm: {enforce_eager: true})"
        )
    worst = [
        same[0]._replace(
            prompt=_largest(e.prompt for e in same), reply=_largest(e.reply for e in same),
            largest=max(e.largest for e in same),
        )
        for same in zip(*found, strict=True)
    ]  # fmt: skip
    return explain(worst, dtype)


def _largest(values: Iterable[float]) -> float:
    # `max` keeps or loses a NaN by its place.
    return max(values, key=lambda value: value if value == value else float("inf"))


def _limit(error: LayerError, dtype: str) -> float:
    return probe_limit(dtype, error.largest) if error.kind == "head" else TOLERANCE[dtype]


def _swap(streams: torch.Tensor, place: int, fed: list[torch.Tensor]) -> Any:
    """A pre-hook that hands a module the engine's stream in place of the trainer's."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        fed.append(args[0][0].detach().float())
        return (streams[place][None].to(args[0]), *args[1:])

    return hook


def _keep(given: list[torch.Tensor]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        given.append(tensor[0].detach().float().cpu())

    return hook


def _errors(
    mine: torch.Tensor, theirs: torch.Tensor, scale: torch.Tensor, split: int
) -> tuple[float, float]:
    """Error relative to `scale` over the first `split` rows and over the rest (0 where there is
    none)."""
    found = []
    for rows in (slice(None, split), slice(split, None)):
        size = float(scale[rows].norm())
        gap = float((mine[rows] - theirs[rows]).norm())
        found.append(gap / size if size else (0.0 if gap == 0 else float("inf")))
    return found[0], found[1]
