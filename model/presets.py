"""Shapes of hybrid models, named and checked. Imports no torch, so that a plan costs no start-up.

Layer patterns use the field's letters: ``M`` Mamba-2, ``-`` feed-forward, ``*`` attention, ``E`` experts.
Numbers of Nemotron Nano 2: arXiv 2508.14444, its model cards, and Table 10 for the candidates.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from workbench.errors import UserError, unknown_name
from workbench.recipe import Recipe

DTYPES = ("float32", "bfloat16", "float64")
LAYER_KINDS = {"M": "linear_attention", "-": "mlp", "*": "full_attention", "E": "moe"}
_OLDER_WORDS = {"mamba": "M", "attention": "*"}  # of older transformers
# What a layer of experts needs; 0 where there is none.
EXPERT_SIZES = (
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
)  # fmt: skip
_PATTERN_12B = "M-M-M-M*-" + "M-M-M-M*-" * 5 + "M-M-M-M-"
_PATTERN_30B = "MEMEM*E" + "MEMEM*E" * 4 + "MEMEMEM*EMEMEMEME"
_PATTERN_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"


@dataclasses.dataclass(frozen=True)
class HybridShape:
    """Everything that decides the size and the state of a hybrid model.

    ``mamba_num_heads * mamba_head_dim`` is the inner width of a Mamba layer; it need not be a
    multiple of ``hidden_size``. ``initializer_range`` is the standard deviation of the initial
    weights. ``chunk_size`` is the chunk of the scan in tokens, for engines that read it. A layer of
    experts sends each token to ``num_experts_per_tok`` of ``n_routed_experts`` feed-forwards of
    ``moe_intermediate_size``, times ``routed_scaling_factor``, and to a shared one.

    >>> shape("miniature", vocab_size=1024).d_inner
    256
    """

    pattern: str
    hidden_size: int
    intermediate_size: int
    mamba_num_heads: int
    mamba_head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    n_groups: int = 8
    ssm_state_size: int = 128
    conv_kernel: int = 4
    chunk_size: int = 128
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    layer_norm_epsilon: float = 1e-5
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    dtype: str = "bfloat16"
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    routed_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def d_inner(self) -> int:
        """Inner width of a Mamba layer: heads x head_dim."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution: x, B and C of all groups."""
        return self.d_inner + 2 * self.n_groups * self.ssm_state_size

    @property
    def layer_kinds(self) -> list[str]:
        """The pattern in transformers' words, one a layer."""
        return [LAYER_KINDS[letter] for letter in self.pattern]


def pattern_of(words: Iterable[str]) -> str:
    """Letters for transformers' words of layers, today's and older ones. Raises: UserError for another word.

    >>> pattern_of(["mamba", "moe", "full_attention"])
    'ME*'
    """
    letters = {word: letter for letter, word in LAYER_KINDS.items()} | _OLDER_WORDS
    pattern = ""
    for place, word in enumerate(words):
        if word not in letters:
            raise UserError(
                f"layers_block_type has {word!r} at layer {place}; allowed: {', '.join(letters)}"
            )
        pattern += letters[word]
    return pattern


def _check(s: HybridShape) -> None:
    """Raise UserError, one line, for the first thing about a shape that cannot be built."""
    if not isinstance(s.pattern, str) or not s.pattern:
        raise UserError("layer pattern is empty; write one letter a layer, e.g. M-M-*-M-")
    for place, letter in enumerate(s.pattern):
        if letter not in LAYER_KINDS:
            raise UserError(
                f"layer pattern {s.pattern!r} has {letter!r} at layer {place}; "
                "allowed: M (Mamba-2), - (feed-forward), * (attention), E (experts)"
            )
    for field in dataclasses.fields(s):
        name, value = field.name, getattr(s, field.name)
        if field.type is int and (isinstance(value, bool) or not isinstance(value, int)):
            raise UserError(f"model field {name} is {value!r}; a whole number is needed")
        may_be_0 = name.endswith("_token_id") or (name in EXPERT_SIZES and "E" not in s.pattern)
        if field.type is int and value < (0 if may_be_0 else 1):
            raise UserError(f"model field {name} is {value}; it must be positive")
        if field.type is float and not _is_positive(value):
            raise UserError(f"model field {name} is {value!r}; a positive number is needed")
        if name == "dtype" and value not in DTYPES:
            raise UserError(f"model field dtype is {value!r}; allowed: {', '.join(DTYPES)}")
    _divides("mamba_num_heads", s.mamba_num_heads, "n_groups", s.n_groups)
    _divides(
        "num_attention_heads", s.num_attention_heads, "num_key_value_heads", s.num_key_value_heads
    )
    if s.num_experts_per_tok > s.n_routed_experts:
        raise UserError(
            f"num_experts_per_tok {s.num_experts_per_tok} is more than n_routed_experts {s.n_routed_experts}"
        )
    special = max(s.pad_token_id, s.bos_token_id, s.eos_token_id)
    if special >= s.vocab_size:
        raise UserError(f"special token id {special} is outside vocab_size {s.vocab_size}")


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _divides(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        allowed = [n for n in range(1, value + 1) if value % n == 0]
        raise UserError(
            f"{name} {value} is not a multiple of {by_name} {by}; "
            f"{by_name} may be {', '.join(map(str, allowed))}"
        )


_NANO2_12B = HybridShape(
    pattern=_PATTERN_12B,
    hidden_size=5120,
    intermediate_size=20480,
    mamba_num_heads=128,
    mamba_head_dim=80,
    num_attention_heads=40,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=131072,
)
_NANO2_9B = dataclasses.replace(
    _NANO2_12B, pattern=_PATTERN_9B, hidden_size=4480, intermediate_size=15680
)
PRESETS: dict[str, HybridShape] = {
    "miniature": HybridShape(
        # Two attention layers, early: copying words from a prompt, which every domain needs, appears
        # in half the tokens that one layer in the middle takes; the width of the initial weights
        # is 1/sqrt(hidden) instead of the 12B's 0.02 for the same reason (docs/LOG.md).
        pattern="M*-M*-M-",
        hidden_size=128,
        intermediate_size=512,
        mamba_num_heads=8,
        mamba_head_dim=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=1536,
        n_groups=2,
        ssm_state_size=32,
        chunk_size=64,
        initializer_range=0.1,
        max_position_embeddings=4096,
        dtype="float32",
    ),
    "nano2-12b": _NANO2_12B,
    "nano2-9b": _NANO2_9B,
    # Nemotron 3 Nano 30B-A3B: sizes of NVIDIA's Megatron-Bridge recipe for it. [secondary]
    "nano3-30b-a3b": dataclasses.replace(
        _NANO2_12B,
        pattern=_PATTERN_30B,
        hidden_size=2688,
        intermediate_size=1856,
        mamba_num_heads=64,
        mamba_head_dim=64,
        num_attention_heads=32,
        num_key_value_heads=2,
        max_position_embeddings=262144,
        n_routed_experts=128,
        num_experts_per_tok=6,
        moe_intermediate_size=1856,
        moe_shared_expert_intermediate_size=3712,
        routed_scaling_factor=2.5,
    ),
    # The other two candidates of the paper's Table 10; they share the 9B's depth.
    "nano2-9b-candidate1": dataclasses.replace(
        _NANO2_9B, intermediate_size=17920, mamba_num_heads=112
    ),
    "nano2-9b-candidate3": dataclasses.replace(
        _NANO2_9B, hidden_size=4800, intermediate_size=14400, mamba_num_heads=120
    ),
}
# Checkpoints on the hub whose sizes are a preset's: they are planned without being there.
RELEASED = {
    "nvidia/NVIDIA-Nemotron-Nano-12B-v2-Base": "nano2-12b",
    "nvidia/NVIDIA-Nemotron-Nano-12B-v2": "nano2-12b",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2-Base": "nano2-9b",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": "nano2-9b",
}
_FIELDS = {field.name: field for field in dataclasses.fields(HybridShape)}


def shape(preset: str | None = None, **fields: Any) -> HybridShape:
    """A checked shape: a preset, a preset with overrides, or all fields spelled out.

    Errors: UserError for an unknown preset or field, a missing field, a wrong type, or sizes
    that do not fit together.
    """
    for name in fields:
        if name not in _FIELDS:
            raise unknown_name("model field", name, _FIELDS)
    if preset is not None:
        if preset not in PRESETS:
            raise unknown_name("model preset", preset, PRESETS)
        return dataclasses.replace(PRESETS[preset], **fields)
    required = [n for n, f in _FIELDS.items() if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in fields]
    if missing:
        raise UserError(
            f"a model without a preset needs {', '.join(missing)}; "
            f"give them, or start from a preset: {', '.join(sorted(PRESETS))}"
        )
    return HybridShape(**fields)


def check_recipe(recipe: Recipe) -> None:
    """Raises: UserError where the recipe's `model` is not a shape."""
    shape(recipe.model.preset, **recipe.model.overrides)
