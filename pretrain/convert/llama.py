"""llama.cpp's naming and layout of Llama-type models, turned back into Hugging Face's.

llama.cpp rotates neighbouring pairs of a head's dimensions, Hugging Face the two halves of the head;
its converter therefore reorders the rows of the query and key projections, and this undoes that.
"""

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from transformers import LlamaConfig

from workbench.errors import UserError

Array = NDArray[Any]

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
# Factors of the rotary frequencies; Hugging Face has them in its configuration, by a rule.
_FACTORS = "rope_freqs.weight"
_INSTEAD = "convert its Hugging Face checkpoint instead (source: {type: checkpoint, path: ...})"


def hf_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor. Raises: UserError for one that Llama does not have."""
    if name in _WHOLE:
        return _WHOLE[name]
    found = _LAYER.fullmatch(name)
    if found is None or found[2] not in _OF_LAYER:
        raise UserError(
            f"GGUF tensor {name!r} has no place in a Llama model; only the architecture `llama` "
            "without biases and experts is converted"
        )
    return f"model.layers.{found[1]}.{_OF_LAYER[found[2]]}.weight"


def unpermute(weight: Array, num_heads: int) -> Array:
    """Rows of a query or key projection [H * D, hidden] from interleaved pairs back to halves.

    In each head row 2 i + p of the file is row p D/2 + i of Hugging Face's matrix.
    """
    rows, *rest = weight.shape
    if rows % (2 * num_heads):
        raise UserError(f"a projection of {rows} rows has no {num_heads} heads of even size")
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, *rest)
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def state_dict(tensors: Mapping[str, Array], config: LlamaConfig) -> dict[str, Array]:
    """Dequantized GGUF tensors under Hugging Face's names and in its row order.

    Raises: UserError for a tensor that Llama does not have, or that its configuration cannot say.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    out = {}
    for name, tensor in tensors.items():
        if name == _FACTORS:
            if not (tensor == 1).all():
                raise UserError(
                    f"the GGUF file scales its rotary frequencies by {_FACTORS} (as Llama 3.1 and 3.2 do), "
                    f"and does not say by which rule; {_INSTEAD}"
                )
            continue
        target = hf_name(name)
        kind = target.split(".")[-2]
        out[target] = unpermute(tensor, heads[kind]) if kind in heads else tensor
    return out


def llama_config(fields: Mapping[str, Any], *, tied: bool) -> LlamaConfig:
    """transformers' configuration from GGUF's `llama.*` and `tokenizer.*` fields.

    tied: the file has no `output.weight`. Raises: UserError naming a field that is missing.
    """

    def field(name: str) -> Any:
        if name not in fields:
            raise UserError(f"the GGUF file has no field {name!r}; convert it again with llama.cpp")
        return fields[name]

    if field("general.architecture") != "llama":
        raise UserError(
            f"the GGUF file holds a {fields['general.architecture']!r}; only `llama` is converted"
        )
    heads = field("llama.attention.head_count")
    head_dim = fields.get("llama.attention.key_length", field("llama.embedding_length") // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (given := fields.get(f"llama.{name}", head_dim)) != head_dim:
            raise UserError(
                f"the GGUF file has llama.{name} {given} beside heads of {head_dim}; only Llamas where "
                "they are equal are converted"
            )
    return LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=field("llama.context_length"),
        # Written in fp32: 1e-5 comes back as 9.999999747378752e-06.
        rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters=_rope(fields),
        tie_word_embeddings=tied,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
    )


def _rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' rope_parameters. Raises: UserError for a scaling that is not linear.

    As llama.cpp reads them: a factor without a type is linear, and 0 is none.
    """
    theta = {"rope_theta": float(fields.get("llama.rope.freq_base", 10000.0))}
    kind = fields.get("llama.rope.scaling.type", "linear")
    old = fields.get("llama.rope.scale_linear", 0.0)
    factor = float(fields.get("llama.rope.scaling.factor", old)) or 1.0
    if kind not in ("none", "linear"):
        raise UserError(
            f"the GGUF file scales its rotary positions by {kind!r}; only linear scaling is converted; "
            f"{_INSTEAD}"
        )
    if kind == "none" or factor == 1:
        return {"rope_type": "default", **theta}
    return {"rope_type": "linear", "factor": factor, **theta}
