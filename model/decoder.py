"""Shapes of Transformer decoders, read from a checkpoint's configuration, for the plan. Imports no torch.

A family stands here once its parameters are counted exactly (tests compare with transformers' own models).
What a family outside costs is not guessed.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model.families import STACKED, numbers, stacked
from model.presets import EXPERT_SIZES, HybridShape, pattern_of
from model.stack import Held, Linear, Products, StackShape
from workbench.errors import UserError
from workbench.hub import configuration_file


class _Traits(NamedTuple):
    """What a family has beside projections: biases, norms of each layer, norms of q and k ("head": of one
    head's width, "all": of the whole projection's), and the keys that switch biases. fused: q, k and v are one
    linear layer, gate and up another."""

    qkv_bias: bool = False
    bias_key: str | None = None
    norms: int = 2
    qk_norm: str = ""
    tied: bool = False
    fused: bool = False


FAMILIES = {
    "llama": _Traits(bias_key="attention_bias"),
    "mistral": _Traits(),
    "qwen2": _Traits(qkv_bias=True),
    "qwen3": _Traits(bias_key="attention_bias", qk_norm="head"),
    "granite": _Traits(bias_key="attention_bias"),
    "smollm3": _Traits(bias_key="attention_bias", tied=True),
    "olmo2": _Traits(bias_key="attention_bias", qk_norm="all"),
    "phi3": _Traits(fused=True),
    "gemma2": _Traits(bias_key="attention_bias", norms=4, tied=True),
    "gemma3_text": _Traits(bias_key="attention_bias", norms=4, qk_norm="head", tied=True),
}


@dataclasses.dataclass(frozen=True)
class DecoderShape:
    """Layers of attention and a gated feed-forward. window: tokens that windowed layers keep of the past.

    >>> DecoderShape("llama", 2, 8, 16, 2, 1, 4, 10, tied=True).parameters
    1272
    """

    family: str
    layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None
    windowed: int = 0

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys, and of all values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Projections, biases and norms of queries and keys of one layer."""
        kind = FAMILIES[self.family].qk_norm
        weights = 2 * self.hidden_size * (self.query_width + self.key_width)
        biases = (self.query_width + 2 * self.key_width) * self.qkv_bias
        biases += self.hidden_size * self.o_bias
        norms = {"": 0, "head": 2 * self.head_dim, "all": self.query_width + self.key_width}[kind]
        return weights + biases + norms

    @property
    def mlp_parameters(self) -> int:
        """Gate, up and down of one layer."""
        biases = (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return 3 * self.hidden_size * self.intermediate_size + biases

    @property
    def parameters_of_a_layer(self) -> int:
        """Attention, feed-forward and norms."""
        norms = FAMILIES[self.family].norms * self.hidden_size
        return self.attention_parameters + self.mlp_parameters + norms

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        words = (2 - self.tied) * self.vocab_size * self.hidden_size
        return self.layers * self.parameters_of_a_layer + words + self.hidden_size

    @property
    def idle_parameters(self) -> int:
        """None: a token passes all of them."""
        return 0

    @property
    def layer_parameters(self) -> list[int]:
        """Of each layer."""
        return [self.parameters_of_a_layer] * self.layers

    @property
    def by_kind(self) -> tuple[int, int, int, int]:
        """Parameters of Mamba (none), of feed-forwards, of attention with the layers' norms, of the output."""
        mlp = self.layers * self.mlp_parameters
        output = (2 - self.tied) * self.vocab_size * self.hidden_size + self.hidden_size
        return 0, mlp, self.parameters - mlp - output, output

    @property
    def _linears(self) -> list[Linear]:
        """Linear layers of one layer, whose biases are counted elsewhere."""
        hidden, inner = self.hidden_size, self.intermediate_size
        heads, ups = [self.query_width, self.key_width, self.key_width], [inner, inner]
        if FAMILIES[self.family].fused:
            heads, ups = [sum(heads)], [sum(ups)]
        into = [Linear(hidden, width) for width in (*heads, *ups)]
        return [*into, Linear(self.query_width, hidden), Linear(inner, hidden)]

    @property
    def products(self) -> list[Products]:
        """The matrix products of every layer."""
        linears = self._linears
        return [Products(len(linears), sum(x.parameters for x in linears))] * self.layers

    @property
    def largest_matrix(self) -> int:
        """Values of the largest linear layer of a layer."""
        return max(x.parameters for x in self._linears)

    def state_bytes(self, ssm_bytes: int, conv_bytes: int) -> int:
        """None: nothing is recurrent."""
        return 0

    def lora_parameters(self, rank: int) -> int:
        """Adapters of rank on every projection."""
        return rank * self.layers * sum(x.inputs + x.outputs for x in self._linears)

    def forward_flops(self, document_tokens: float) -> float:
        """FLOPs of one token's forward pass: products, and causal scores (half the document on average)."""
        products = sum(x.parameters for x in self._linears)
        seen = document_tokens / 2
        near = min(seen, self.window or seen)
        scores = (self.layers - self.windowed) * seen + self.windowed * near
        return (
            2 * self.layers * products
            + 4 * scores * self.query_width
            + 2 * self.vocab_size * self.hidden_size
        )

    def layer_activation_bytes(self, bytes_a_value: int, stream_bytes: int) -> int:
        """Bytes a token that one layer keeps: each norm's input, its normed value and its output; queries,
        keys and values as attention takes them, its output twice; gate, its SiLU, up and their product."""
        norms = FAMILIES[self.family].norms * self.hidden_size * (2 * stream_bytes + bytes_a_value)
        attention = bytes_a_value * (5 * self.query_width) + 4 * self.num_attention_heads
        if FAMILIES[self.family].qk_norm:
            attention += 2 * (self.query_width + self.key_width) * stream_bytes
        return norms + attention + 4 * self.intermediate_size * bytes_a_value

    def layers_activation_bytes(self, held: Held) -> list[int]:
        """Bytes a token that each layer keeps."""
        return [self.layer_activation_bytes(held.computed, held.stream)] * self.layers

    def kv_cache_bytes(self, tokens: int, bytes_a_value: int) -> int:
        """Keys and values of one sequence; windowed layers keep their window."""
        near = min(tokens, self.window or tokens)
        kept = (self.layers - self.windowed) * tokens + self.windowed * near
        return 2 * self.key_width * bytes_a_value * kept


# Peers that plans compare with, where no network is: sizes of their published configurations.
PUBLISHED = {
    "qwen3-8b": DecoderShape("qwen3", 36, 4096, 12288, 32, 8, 128, 151936),
}


def described(config: Mapping[str, Any]) -> DecoderShape | HybridShape | StackShape:
    """The shape that a config.json says. Raises: UserError for a family, or a value, that is not known."""
    family = str(config.get("model_type"))
    if family == "nemotron_h":
        return _hybrid(config)
    if family in STACKED:
        return stacked(config)
    if family not in FAMILIES:
        raise UserError(
            f"what a model of the family {family!r} costs is not known, and not guessed; known: "
            f"{', '.join(['nemotron_h', *FAMILIES, *STACKED])}"
        )
    traits = FAMILIES[family]
    needed = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
    )
    numbers(config, needed)
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    bias = bool(config.get(traits.bias_key or "", False))
    return DecoderShape(
        family=family,
        layers=layers,
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim")
        or (256 if family.startswith("gemma") else config["hidden_size"] // heads),
        vocab_size=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", traits.tied)),
        qkv_bias=traits.qkv_bias or bias,
        o_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family in ("llama", "granite", "smollm3"),
        window=config.get("sliding_window"),
        windowed=_windowed(config, layers),
    )


_HYBRID = (
    "hidden_size", "intermediate_size", "mamba_num_heads", "mamba_head_dim", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "n_groups", "ssm_state_size", "conv_kernel",
)  # fmt: skip


def _hybrid(config: Mapping[str, Any]) -> HybridShape:
    """NemotronH: its pattern is written in letters, or in one word a layer."""
    pattern = config.get("hybrid_override_pattern")
    if not pattern:
        pattern = pattern_of(config.get("layers_block_type") or ())
    needed = _HYBRID + (EXPERT_SIZES if "E" in pattern else ())
    if config.get("moe_latent_size") and "E" in pattern:
        raise UserError("what latent experts (moe_latent_size) cost is not known, and not guessed")
    values = {**config, "head_dim": config.get("head_dim", config.get("attention_head_dim"))}
    sizes: dict[str, Any] = dict(zip(needed, numbers(values, needed), strict=True))
    return HybridShape(pattern=pattern, **sizes)


def _windowed(config: Mapping[str, Any], layers: int) -> int:
    """How many layers see a window alone."""
    if not config.get("sliding_window"):
        return 0
    if isinstance(kinds := config.get("layer_types"), list):
        return kinds.count("sliding_attention")
    family = config.get("model_type")
    if family in ("qwen2", "qwen3"):
        first = config.get("max_window_layers", layers)
        return max(layers - first, 0) if config.get("use_sliding_window") else 0
    if family == "gemma2":
        return (layers + 1) // 2
    if family == "gemma3_text":
        return layers - layers // int(config.get("sliding_window_pattern", 6))
    return layers


def configuration(place: str, revision: str | None = None) -> dict[str, Any]:
    """config.json of a folder, or of a hub id: from the local cache, or fetched (some kilobytes).

    Raises: UserError where it cannot be had, with the command that fetches it.
    """
    path = Path(place) / "config.json"
    if not path.is_file():
        path = configuration_file(place, revision)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    return read.get("text_config") or read if isinstance(read, dict) else {}
