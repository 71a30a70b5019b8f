"""GGUF to Hugging Face: names, the row order of queries and keys, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.presets import RELEASED, shape
from model.sizes import parameters
from pretrain.convert.config import ConvertConfig, GgufSource
from pretrain.convert.gguf_file import GgufFile, locate
from pretrain.convert.llama import hf_name, llama_config, state_dict, unpermute
from pretrain.convert.plan import plan_convert
from pretrain.plan import plan_pretrain
from tests import tiny as tiny_recipe
from workbench.errors import UserError
from workbench.recipe import build

FIELDS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.vocab_size": 48,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 128,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.rope.freq_base": 100000.0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
}
GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def to_gguf(model: LlamaForCausalLM) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors that llama.cpp's converter writes, done another way: row by row.

    Row 2 i + p of a head in the file is row p D/2 + i of the checkpoint.
    """
    out = {}
    for name, tensor in model.state_dict().items():
        value = tensor.float().numpy()
        if name == "model.embed_tokens.weight":
            out["token_embd.weight"] = value
        elif name == "model.norm.weight":
            out["output_norm.weight"] = value
        elif name.startswith("model.layers."):
            _, _, layer, *rest = name.split(".")
            kind = ".".join(rest[:-1])
            if kind.endswith(("q_proj", "k_proj")):
                size = model.config.head_dim
                rows = np.empty_like(value)
                for row in range(len(value)):
                    head, place = divmod(row, size)
                    half, pair = divmod(place, size // 2)
                    rows[head * size + 2 * pair + half] = value[row]
                value = rows
            out[f"blk.{layer}.{GGUF_NAMES[kind]}.weight"] = value
    return out


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(FIELDS, tied=True))


def test_rows_of_queries_and_keys_go_back_to_halves() -> None:
    # One head of size 6: pairs (0, 3), (1, 4), (2, 5) of the checkpoint lie side by side in the file.
    file = np.array([[0], [3], [1], [4], [2], [5]])
    assert unpermute(file, 1).ravel().tolist() == [0, 1, 2, 3, 4, 5]
    two_heads = np.concatenate([file, file + 10])
    assert unpermute(two_heads, 2).ravel().tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    with pytest.raises(UserError, match="no 4 heads of even size"):
        unpermute(file, 4)


def test_a_model_written_as_llama_cpp_does_comes_back_to_the_bit(tiny: LlamaForCausalLM) -> None:
    back = state_dict(to_gguf(tiny), tiny.config)
    wanted = {n: t for n, t in tiny.state_dict().items() if n != "lm_head.weight"}
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.array_equal(back[name], tensor.numpy()), name


def test_the_configuration_is_the_files() -> None:
    config = llama_config(FIELDS, tied=True)
    assert isinstance(config, LlamaConfig)
    assert (config.num_key_value_heads, config.head_dim, config.vocab_size) == (2, 8, 48)
    assert config.rms_norm_eps == 1e-5  # not 9.999999747378752e-06
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert config.tie_word_embeddings and config.eos_token_id == 2
    with pytest.raises(UserError, match="'gpt2'; only `llama`"):
        llama_config({**FIELDS, "general.architecture": "gpt2"}, tied=True)
    fields = {k: v for k, v in FIELDS.items() if k != "llama.block_count"}
    with pytest.raises(UserError, match=r"no field 'llama\.block_count'"):
        llama_config(fields, tied=True)


def test_the_size_of_heads_is_the_files() -> None:
    config = llama_config({**FIELDS, "llama.attention.key_length": 16}, tied=True)
    assert config.head_dim == 16
    model = LlamaForCausalLM(config)
    back = state_dict(to_gguf(model), config)
    # 4 heads of 16 over a width of 32.
    assert back["model.layers.0.self_attn.q_proj.weight"].shape == (64, 32)
    assert np.array_equal(
        back["model.layers.0.self_attn.k_proj.weight"],
        model.state_dict()["model.layers.0.self_attn.k_proj.weight"].numpy(),
    )
    with pytest.raises(UserError, match=r"llama\.attention\.value_length 4 beside heads of 8"):
        llama_config({**FIELDS, "llama.attention.value_length": 4}, tied=True)


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, None),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scaling.factor": 2.0}, 2.0),
        ({"llama.rope.scale_linear": 2.0}, 2.0),
    ],
)
def test_linear_scaling_of_positions_is_kept(more: dict[str, Any], factor: float | None) -> None:
    """Angles of position p are those of p / factor without scaling [derived]."""
    config = llama_config({**FIELDS, **more}, tied=True)
    assert config.rope_parameters.get("factor") == factor
    positions, x = torch.tensor([[0, 4, 8]]), torch.zeros(1)
    plain = LlamaRotaryEmbedding(llama_config(FIELDS, tied=True))
    cos, _ = LlamaRotaryEmbedding(config)(x, positions)
    assert torch.allclose(cos, plain(x, positions / (factor or 1.0))[0], atol=1e-6)


def test_scaling_that_the_fields_do_not_tell_is_refused(tiny: LlamaForCausalLM) -> None:
    with pytest.raises(UserError, match="'yarn'; only linear scaling.*type: checkpoint"):
        llama_config({**FIELDS, "llama.rope.scaling.type": "yarn"}, tied=True)
    tensors, ones = to_gguf(tiny), np.ones(4, np.float32)
    assert state_dict({**tensors, "rope_freqs.weight": ones}, tiny.config).keys()
    factors = np.array([1, 1, 1, 8], np.float32)
    with pytest.raises(UserError, match=r"rope_freqs\.weight \(as Llama 3\.1.*type: checkpoint"):
        state_dict({**tensors, "rope_freqs.weight": factors}, tiny.config)


def test_a_tensor_without_a_place_is_refused() -> None:
    assert hf_name("blk.11.ffn_up.weight") == "model.layers.11.mlp.up_proj.weight"
    for name in ("blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight", "position_embd.weight"):
        with pytest.raises(UserError, match="has no place in a Llama model"):
            hf_name(name)


def test_a_source_says_where_it_is(tmp_path: Path) -> None:
    def source(**fields: Any) -> Any:
        raw = {"kind": "convert", "source": {"type": "gguf", **fields}}
        return ConvertConfig.read(raw, where="stages.base").source

    for fields in ({}, {"path": "a", "package": "b"}):
        with pytest.raises(UserError, match="either `path` or `package`"):
            source(**fields)
    with pytest.raises(UserError, match="no GGUF file at"):
        locate(source(path=str(tmp_path / "x.gguf")))
    with pytest.raises(UserError, match="'no_such_package' is not installed"):
        locate(source(package="no_such_package"))
    with pytest.raises(UserError, match="'yaml' ships 0 GGUF files"):
        locate(source(package="yaml"))


def test_a_written_file_is_read(
    tmp_path: Path, tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the GGUF library (requirements/real.txt): write a file, read it back as a model."""
    gguf = pytest.importorskip("gguf")
    from pretrain.convert.stage import read_gguf

    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in FIELDS.items():
        if isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
    for name, tensor in to_gguf(tiny).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model, about = read_gguf(path)
    assert about["tensor_types"] == {"F32": 20}  # 9 of each layer, embeddings, last norm
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny(ids).logits)
    other = {**to_gguf(tiny), "output_norm.weight": np.zeros(31, np.float32)}
    monkeypatch.setattr(GgufFile, "tensors", lambda self: iter(other.items()))
    with pytest.raises(UserError, match=r"model\.norm\.weight is \(31,\), where.* \(32,\)"):
        read_gguf(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a whole GGUF file"):
        read_gguf(path)
    assert GgufSource(type="gguf", path="x").path == "x"


def test_plans_of_a_conversion_and_of_training_on_it_are_of_its_size() -> None:
    """Released 12B: 12.31e9 parameters [model card: 12B], trained on whatever the recipe's own model is."""
    path = next(hub for hub, preset in RELEASED.items() if preset == "nano2-12b")
    stages: dict[str, Any] = {
        "base": {"kind": "convert", "source": {"type": "checkpoint", "path": path}, "dtype": "bfloat16"},
        "longer": tiny_recipe.pretrain_stage(needs=["base"], initial="parent"),
    }  # fmt: skip
    raw = {"name": "t", "seed": 1, "model": tiny_recipe.MODEL, "stages": stages}
    recipe = build(raw)
    number = parameters(shape("nano2-12b"))
    assert 12.2e9 < number < 12.4e9
    base: Any = recipe.stages["base"]
    plan = plan_convert(base, recipe)
    assert plan.disk_bytes == 2 * number and f"{number:,} parameters" in plan.lines[1]
    longer: Any = recipe.stages["longer"]
    plan = plan_pretrain(longer, recipe)
    assert plan.lines[0] == f"{number:,} parameters (the parent's)"
    assert plan.disk_bytes == 3 * 12 * number + 4 * number
    stages["base"]["source"]["path"] = "/nowhere"
    recipe = build(raw)
    longer, base = recipe.stages["longer"], recipe.stages["base"]
    plan = plan_pretrain(longer, recipe)
    assert plan.lines[0].startswith("parameters unknown: ") and plan.disk_bytes == 2**28
    assert "size unknown: " in plan_convert(base, recipe).lines[1]
