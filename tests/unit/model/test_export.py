"""Other forms of a checkpoint: quantised by torchao and read back, a GGUF by a converter, and refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.export import FORMS, distance, export
from model.hybrid import save_model
from pretrain.hybrid import build_config, load_model
from workbench.errors import UserError

APART = Path(__file__).parents[3] / ".venv" / "dev-separate"
CONVERTER = """
import json, pathlib, sys
folder, _, out, _, kind, _, name = sys.argv[1:]
if kind == "q8_0":
    sys.exit("ERROR: a model of this family is not supported")
files = {path.name: path.read_bytes().hex() for path in pathlib.Path(folder).iterdir()}
config = json.loads(bytes.fromhex(files.pop("config.json")))
open(out, "w").write(json.dumps({"kind": kind, "name": name, "config": config, "files": files}))
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    config = build_config(
        pattern="M-*", hidden_size=64, intermediate_size=96, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        vocab_size=512,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("run") / "grpo"
    save_model(load_model(config), folder / "model", tokenizer)
    return folder


@pytest.mark.skipif(not (APART / "torchao").is_dir(), reason="torchao is not in .venv/dev-separate")
def test_quantised_weights_are_smaller_and_say_nearly_the_same(stage: Path) -> None:
    """The command in a process of its own, which finds torchao where it lies apart."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.anneal", "export", str(stage), "int8"],
        env={**os.environ, "PYTHONPATH": str(APART)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = stage / "exports" / "int8"
    weights = [place / "model.safetensors" for place in (made, stage / "model")]
    assert weights[0].stat().st_size < 0.8 * weights[1].stat().st_size
    assert (made / "tokenizer.json").is_file() and (made / "chat_template.jinja").is_file()
    said = done.stdout.splitlines()[-1]
    assert float(said.split("KL ")[1].split()[0]) < 1e-3 and "on 1,024 tokens" in said


def test_the_distance_sees_another_model(stage: Path, tmp_path: Path, tokenizer: Any) -> None:
    same = distance(stage / "model", stage / "model", rows=2, tokens=8)
    assert (same.kl, same.same_likeliest, same.n) == (pytest.approx(0, abs=1e-6), 1.0, 16)
    model = load_model(stage / "model")
    for weight in model.parameters():
        weight.data.mul_(1.5)
    save_model(model, tmp_path / "other", tokenizer)
    assert distance(stage / "model", tmp_path / "other", rows=2, tokens=8).kl > 1e-3


def test_a_gguf_is_the_converters_own(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text(CONVERTER)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    made = export(stage / "model", "gguf-f16", tmp_path / "out")
    got = json.loads((made / "grpo-f16.gguf").read_text())
    assert (got["kind"], got["name"]) == ("f16", "grpo")
    others = [path for path in (stage / "model").iterdir() if path.name != "config.json"]
    assert got["files"] == {path.name: path.read_bytes().hex() for path in others}
    # Where sizes of experts stood, llama.cpp's converter wrote a mixture of experts that llama.cpp refuses.
    assert got["config"]["hybrid_override_pattern"] == "M-*"
    assert got["config"]["num_hidden_layers"] == 3 and got["config"]["intermediate_size"] == 96
    assert not {"num_experts_per_tok", "n_group", "layers_block_type"} & set(got["config"])
    with pytest.raises(UserError, match="refused .*: ERROR: a model of this family is not"):
        export(stage / "model", "gguf-q8_0", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(UserError, match="exists already"):
        export(stage / "model", "gguf-f16", tmp_path / "out")


def test_a_gguf_is_made_of_a_folder_with_older_names_of_layers(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text(CONVERTER)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    older = tmp_path / "run" / "model"
    shutil.copytree(stage / "model", older)
    config = json.loads((older / "config.json").read_text())
    config["layers_block_type"] = ["mamba", "mlp", "attention"]
    (older / "config.json").write_text(json.dumps(config))
    made = export(older, "gguf-f16", tmp_path / "out")
    got = json.loads((made / "run-f16.gguf").read_text())
    assert got["config"]["hybrid_override_pattern"] == "M-*"


def test_what_cannot_be_made_is_one_line(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    monkeypatch.setattr("model.export.find_spec", lambda name: None)
    for form, why in (
        ("int3", f"form 'int3' is not known; allowed: {', '.join(FORMS)}"),
        ("int8", "needs torchao, which is not installed"),
        ("gguf-f16", "a GGUF needs llama.cpp's convert_hf_to_gguf.py, which is not in LLAMA_CPP"),
    ):
        with pytest.raises(UserError) as caught:
            export(stage / "model", form, tmp_path / "nothing")
        assert why in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "nothing").exists()
