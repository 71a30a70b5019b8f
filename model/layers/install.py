"""The one place where document isolation enters a model."""

from threading import get_ident
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMLP, NemotronHRMSNorm

from model.layers import attention, context, experts, hybrids
from model.layers.alone import DocumentsAlone
from model.layers.feed_forward import FusedFeedForward
from model.layers.layout import DocumentLayout
from model.layers.mixer import DocumentMamba2
from model.layers.norm import FusedRMSNorm

# transformers clamps the time step of NemotronH from below at `time_step_min`, which is meant
# for initialisation: training codes and vLLM let it go to 0, and below the clamp the gradient
# is dead. Written to every checkpoint so that transformers' own path agrees with the others.
NO_TIME_STEP_CLAMP = 1e-20
# The same numbers and parameters with less traffic through memory.
_FASTER = {NemotronHMLP: FusedFeedForward, NemotronHRMSNorm: FusedRMSNorm}
# Module names that carry information along the sequence outside of attention.
_RECURRENT = ("mamba", "ssm", "deltanet", "rwkv", "recurrent", "conv1d", "shortconv", "lstm")


def install(model: PreTrainedModel) -> PreTrainedModel:
    """Isolate documents in `model` (in place) whenever it is called with seq_idx [B, T].

    Hybrids of Mamba-2 and attention: attention, convolution and scan. Attention-only models: attention,
    with positions that restart. Layers of experts take their documents one by one (`experts`); so does
    any other model as a whole (`DocumentsAlone`).
    """
    for module in model.modules():
        if (mixer := hybrids.isolated(module)) is not None:
            module.__class__ = mixer
            module.time_step_limit = hybrids.limits(module, model.config)
        elif type(module) in _FASTER:
            module.__class__ = _FASTER[type(module)]
    experts.install(model)
    if hasattr(model.config, "time_step_min") and hasattr(model.config, "ssm_state_size"):
        model.config.time_step_min = min(model.config.time_step_min, NO_TIME_STEP_CLAMP)
    refusal = _why_not(model)
    if refusal is None:
        attention.register()
        model.set_attn_implementation(attention.NAME)
    if not getattr(model, "_documents_installed", False):
        model._documents_installed = True
        entry = _Entry(refusal)
        if refusal is not None:
            model.base_model.forward = DocumentsAlone(model.base_model, refusal)
        model.base_model.register_forward_pre_hook(entry, with_kwargs=True)
        if model.base_model is not model:
            model.register_forward_pre_hook(entry.announce, with_kwargs=True)
            model.register_forward_hook(entry.verify)
    return model


def _why_not(model: PreTrainedModel) -> str | None:
    """Why documents cannot be isolated in this model, or None if they can."""
    named = dict(model.named_modules())
    ours = [name for name, module in named.items() if isinstance(module, DocumentMamba2)]
    for name, module in named.items():
        # Inside one of our layers, or around it (Zamba2MambaDecoderLayer): that layer keeps the state.
        known = any(f"{name}.".startswith(f"{o}.") or o.startswith(f"{name}.") for o in ours)
        # The name GptOssModel has "ssm" in it, and no state.
        kind = type(module).__name__.lower().replace("gptoss", "")
        if not known and any(word in kind for word in _RECURRENT):
            return f"{type(module).__name__} ({name}) carries state across documents"
    # Of a model that sees images too: its language model's.
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    windows = [kind for kind in kinds if "sliding" in kind or "chunk" in kind]
    windowed = getattr(config, "sliding_window", None) is not None
    windowed = windowed and getattr(config, "use_sliding_window", True)
    if windows or (windowed and not kinds):
        return "attention windows are not supported together with documents"
    if (layer := experts.others(model)) is not None:
        return f"its layers of experts ({layer}) share their rounding across documents"
    if not model._supports_sdpa:
        return "its attention cannot be replaced (no SDPA support)"
    return None


class _Entry:
    """Pre-hook of the backbone: checks seq_idx and turns it into a layout for the layers."""

    def __init__(self, refusal: str | None) -> None:
        self.refusal = refusal
        # Threads that called the model with seq_idx: microbatches side by side share the model.
        self.expected: set[int] = set()

    def announce(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Pre-hook of the whole model, which may swallow seq_idx before the backbone sees it."""
        self.expected.discard(get_ident())
        if kwargs.get("seq_idx") is not None:
            self.expected.add(get_ident())

    def verify(self, model: torch.nn.Module, args: object, output: object) -> None:
        """Hook after the whole model: what was announced must have arrived."""
        if get_ident() in self.expected:
            self.expected.discard(get_ident())
            raise ValueError(f"{type(model).__name__} does not hand seq_idx to its layers")

    def __call__(
        self, backbone: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        seq_idx = kwargs.pop("seq_idx", None)
        cache = kwargs.get("past_key_values")
        if seq_idx is None:
            seq_idx = _from_positions(kwargs) if cache is None else None
        if seq_idx is None:
            if context.group_of(backbone) is not None:
                raise ValueError("rows that processes share need seq_idx, and no cache")
            if backbone.training and cache is None and kwargs.get("use_cache") is None:
                kwargs["use_cache"] = False  # transformers would fill a cache that no one reads
            return args, kwargs
        self.expected.discard(get_ident())
        if cache is not None or kwargs.get("use_cache"):
            raise ValueError("seq_idx cannot be combined with a cache; pass use_cache=False")
        if self.refusal is not None:
            if context.group_of(backbone) is not None:
                raise ValueError(
                    f"{type(backbone).__name__} takes one document at a time ({self.refusal}), so its rows "
                    "cannot be shared by processes; leave distributed.context at 1"
                )
            tokens = kwargs.get("inputs_embeds")
            tokens = (args[0] if args else kwargs["input_ids"]) if tokens is None else tokens
            documents = _checked(seq_idx, tokens, kwargs.get("attention_mask"))
            return args, kwargs | {"seq_idx": documents, "use_cache": False}
        if backbone.config._attn_implementation != attention.NAME:
            raise ValueError(
                f"attention was changed to {backbone.config._attn_implementation!r} after "
                f"documents were installed; set it back to {attention.NAME!r}"
            )
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        layout = DocumentLayout(_checked(seq_idx, tokens, kwargs.get("attention_mask")))
        if context.group_of(backbone) is not None:
            args, name = (
                (),
                "inputs_embeds" if kwargs.get("inputs_embeds") is not None else "input_ids",
            )
            kwargs[name] = context.local(backbone, tokens)
        kwargs |= {
            "document_layout": layout,
            "position_ids": context.local(backbone, layout.position_ids),
            "use_cache": False,
            # Four dimensions tell transformers to build no mask; attention does not read it.
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=layout.device),
        }
        return args, kwargs


def _from_positions(kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Documents told by restarting position_ids (as padding-free collators do), or None.

    The same condition as transformers': no padding mask and no cache.
    """
    positions = kwargs.get("position_ids")
    if positions is None or kwargs.get("attention_mask") is not None or positions.ndim != 2:
        return None
    restarts = positions[:, 1:] != positions[:, :-1] + 1
    if not bool(restarts.any()):
        return None
    return torch.nn.functional.pad(restarts.int(), (1, 0)).cumsum(1)


def _checked(
    seq_idx: torch.Tensor, tokens: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """seq_idx [B, T] after validation; padding becomes documents of its own."""
    if seq_idx.shape != tokens.shape[:2]:
        raise ValueError(
            f"seq_idx is {list(seq_idx.shape)} but the tokens are {list(tokens.shape[:2])}"
        )
    if seq_idx.is_floating_point():
        raise ValueError(f"seq_idx holds {seq_idx.dtype}; document numbers are whole (int32)")
    seq_idx = seq_idx.to(tokens.device)
    if bool((seq_idx[:, 1:] < seq_idx[:, :-1]).any()):
        raise ValueError("seq_idx decreases inside a row; number documents in order")
    if attention_mask is None or attention_mask.ndim != 2:
        return seq_idx
    if attention_mask.shape != seq_idx.shape:
        raise ValueError(
            f"attention_mask is {list(attention_mask.shape)} but seq_idx {list(seq_idx.shape)}"
        )
    padding = attention_mask.to(seq_idx.device) == 0
    change = (seq_idx[:, 1:] != seq_idx[:, :-1]) | (padding[:, 1:] != padding[:, :-1])
    return torch.nn.functional.pad(change.int(), (1, 0)).cumsum(1)
