"""From a checkpoint's configuration to the parts of its layers, for the plan. Imports no torch.

A family stands here once its parameters are counted exactly (tests compare with transformers' own models).
"""

from collections.abc import Callable, Mapping
from typing import Any

from model.stack import (
    Attention,
    Between,
    Experts,
    FeedForward,
    Layer,
    LayerPart,
    Mamba,
    Norm,
    StackShape,
)
from workbench.errors import UserError

Config = Mapping[str, Any]


def numbers(config: Config, keys: tuple[str, ...]) -> list[int]:
    """These values. Raises: UserError that names those that are no numbers."""
    if missing := [key for key in keys if not isinstance(config.get(key), int)]:
        raise UserError(
            f"config.json gives no number for {', '.join(missing)}: nothing can be planned from it"
        )
    return [config[key] for key in keys]


def stacked(config: Config) -> StackShape:
    """The shape of a family of STACKED. Raises: UserError for a value that is not there."""
    family = config["model_type"]
    hidden, vocabulary = numbers(config, ("hidden_size", "vocab_size"))
    tied = bool(config.get("tie_word_embeddings", family == "zamba2"))
    return StackShape(family, hidden, vocabulary, tied, tuple(STACKED[family](config)))


def _attention(config: Config, **more: Any) -> Attention:
    hidden, heads = numbers(config, ("hidden_size", "num_attention_heads"))
    return Attention(
        inputs=hidden,
        outputs=hidden,
        heads=heads,
        keys=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        **{"bias": bool(config.get("attention_bias", False))} | more,
    )


def _norm(config: Config) -> Norm:
    return Norm(width=config["hidden_size"])


def _experts(config: Config, width: str, **more: Any) -> Experts:
    """Newer transformers write num_local_experts for what older ones call num_experts."""
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    hidden, inner, number, chosen = numbers(
        config, ("hidden_size", width, key, "num_experts_per_tok")
    )
    return Experts(inputs=hidden, width=inner, number=number, chosen=chosen, **more)


def _feed_forward(config: Config, width: str = "intermediate_size", **more: Any) -> FeedForward:
    hidden, inner = numbers(config, ("hidden_size", width))
    return FeedForward(inputs=hidden, width=inner, **more)


def _layers(config: Config) -> range:
    return range(numbers(config, ("num_hidden_layers",))[0])


def _mixtral(config: Config) -> list[Layer]:
    attention = _attention(config, bias=False, window=config.get("sliding_window"))
    layer = (_norm(config), attention, _norm(config), _experts(config, "intermediate_size"))
    return [layer for _ in _layers(config)]


def _olmoe(config: Config) -> list[Layer]:
    attention = _attention(config, qk_norm="all")
    layer = (_norm(config), attention, _norm(config), _experts(config, "intermediate_size"))
    return [layer for _ in _layers(config)]


def _qwen3_moe(config: Config) -> list[Layer]:
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    attention = _attention(config, qk_norm="head", window=window)
    experts = _experts(config, "moe_intermediate_size")
    every, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()

    def mlp(layer: int) -> LayerPart:
        sparse = layer not in dense and experts.number > 0 and (layer + 1) % every == 0
        return experts if sparse else _feed_forward(config)

    return [(_norm(config), attention, _norm(config), mlp(layer)) for layer in _layers(config)]


def _gpt_oss(config: Config) -> list[Layer]:
    kinds = config.get("layer_types") or [
        "full_attention" if layer % 2 else "sliding_attention" for layer in _layers(config)
    ]
    window, *_ = numbers(config, ("sliding_window",))
    bias = bool(config.get("attention_bias", True))
    experts = _experts(config, "intermediate_size", bias=True, clamped=True)

    def attention(layer: int) -> Attention:
        near = window if kinds[layer] == "sliding_attention" else None
        return _attention(config, bias=bias, sinks=True, window=near)

    return [(_norm(config), attention(layer), _norm(config), experts) for layer in _layers(config)]


_MAMBA = ("hidden_size", "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv")


def _mamba(config: Config, inner: int | None = None, **more: Any) -> Mamba:
    """As Bamba, Granite 4 and Falcon-H1 write it."""
    hidden, heads, groups, states, taps = numbers(config, _MAMBA)
    if inner is None:
        inner = numbers(config, ("mamba_expand",))[0] * hidden
    bias = bool(config.get("mamba_proj_bias", False))
    return Mamba(
        inputs=hidden,
        heads=heads,
        head_dim=inner // heads,
        groups=groups,
        states=states,
        taps=taps,
        conv_bias=bool(config.get("mamba_conv_bias", True)),
        **{"in_bias": bias, "out_bias": bias} | more,
    )


def _bamba(config: Config) -> list[Layer]:
    attends = config.get("attn_layer_indices") or ()
    mlp = _feed_forward(config, bias=bool(config.get("mlp_bias", False)))

    def mixer(layer: int) -> LayerPart:
        return _attention(config) if layer in attends else _mamba(config)

    return [(_norm(config), mixer(layer), _norm(config), mlp) for layer in _layers(config)]


def _granite(config: Config) -> list[Layer]:
    """Granite 4: a shared feed-forward in every layer, and experts where there are any."""
    kinds = config.get("layer_types") or config.get("layers_block_type")
    shared = _feed_forward(config, "shared_intermediate_size", fused=True)
    experts = (_experts(config, "intermediate_size"),) if config.get("num_local_experts") else ()

    def mixer(layer: int) -> LayerPart:
        recurrent = not kinds or kinds[layer] in ("mamba", "linear_attention")
        return _mamba(config) if recurrent else _attention(config)

    return [
        (_norm(config), mixer(layer), _norm(config), shared, *experts) for layer in _layers(config)
    ]


def _falcon_h1(config: Config) -> list[Layer]:
    """Mamba and attention side by side in every layer, each on a scaled copy of the normed input."""
    hidden = numbers(config, ("hidden_size",))[0]
    mamba = _mamba(
        config,
        config.get("mamba_d_ssm"),
        out_bias=bool(config.get("projectors_bias", False)),
        normed=bool(config.get("mamba_rms_norm", False)),
        scaled=hidden,
    )
    mlp = _feed_forward(config, bias=bool(config.get("mlp_bias", False)))
    layer = (_norm(config), mamba, _attention(config, scaled=hidden), _norm(config), mlp)
    return [layer for _ in _layers(config)]


_ZAMBA = ("hidden_size", "n_mamba_heads", "mamba_ngroups", "mamba_d_state", "mamba_d_conv", "mamba_expand")  # fmt: skip


def _zamba2(config: Config) -> list[Layer]:
    """Mamba in every layer; before some of them a Transformer's block on the embedding beside the stream. There are
    `num_mem_blocks` of these, used in turn, with the family's own adapters at every place."""
    hidden, heads, groups, states, taps, expand = numbers(config, _ZAMBA)
    bias = bool(config.get("add_bias_linear", False))
    mamba = Mamba(
        inputs=hidden, heads=heads, head_dim=expand * hidden // heads, groups=groups, states=states,
        taps=taps, in_bias=bias, out_bias=bias,
    )  # fmt: skip
    if not config.get("tie_word_embeddings", True):
        raise UserError(
            "what a zamba2 with tie_word_embeddings: false costs is not known, and not guessed: transformers then "
            "shares no block either"
        )
    kinds = config.get("layers_block_type") or config.get("layer_types")
    if not isinstance(kinds, list):
        raise UserError("config.json gives no layers_block_type: nothing can be planned from it")
    blocks, layers, seen = numbers(config, ("num_mem_blocks",))[0], list[Layer](), 0
    for kind in kinds:
        before: Layer = ()
        if kind == "hybrid":
            before = _zamba_block(config, owned=seen < blocks)
            seen += 1
        layers.append((*before, Norm(width=hidden), mamba))
    return layers


def _zamba_block(config: Config, *, owned: bool) -> Layer:
    hidden, heads, rank = numbers(config, ("hidden_size", "num_attention_heads", "adapter_rank"))
    inner = config.get("intermediate_size") or 4 * hidden
    bias = bool(config.get("add_bias_linear", False))
    attention = Attention(
        owned=owned, inputs=2 * hidden, outputs=hidden, heads=heads,
        keys=config.get("num_key_value_heads") or heads, head_dim=2 * hidden // heads,
    )  # fmt: skip
    adapters = 3 * (config.get("use_shared_attention_adapter") or 0)
    return (
        Norm(owned=owned, width=2 * hidden),
        attention,
        *(Between(widths=(2 * hidden, rank, 2 * hidden)) for _ in range(adapters)),
        Norm(owned=owned, width=hidden),
        FeedForward(owned=owned, inputs=hidden, width=inner, bias=bias, fused=True),
        Between(widths=(hidden, rank, 2 * inner)),
        Between(widths=(hidden, hidden)),
    )


STACKED: dict[str, Callable[[Config], list[Layer]]] = {
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "bamba": _bamba,
    "granitemoehybrid": _granite,
    "falcon_h1": _falcon_h1,
    "zamba2": _zamba2,
}
