"""A checkpoint in another form: quantised by torchao, or a GGUF by llama.cpp's own converter."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from model.presets import pattern_of
from workbench.errors import UserError, one_line
from workbench.rundir import new_folder

QUANTISED = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""Form -> torchao's configuration: weights of all projections, one scale a row; activations stay as they are."""
GGUF = ("f16", "bf16", "f32", "q8_0")
"""What llama.cpp's converter writes by itself; its own tool quantises further."""
FORMS = (*QUANTISED, *(f"gguf-{kind}" for kind in GGUF))
_CONVERTER = "convert_hf_to_gguf.py"
_OF_EXPERTS = (
    "layers_block_type", "num_experts_per_tok", "n_routed_experts", "n_group", "topk_group",
)  # fmt: skip


class Distance(NamedTuple):
    """How far a model's next-token distributions lie from another's: mean KL in nats, share of tokens on which
    both find the same one likeliest. n: tokens."""

    kl: float
    same_likeliest: float
    n: int


def export(folder: Path, form: str, to: Path) -> Path:
    """Write the checkpoint in this form; the folder appears whole. Returns it.

    Raises: UserError where the form is none, what makes it is not installed, or it fails.
    """
    if form in QUANTISED:
        make = _quantised
    elif form in FORMS:
        make = _gguf
    else:
        raise UserError(f"form {form!r} is not known; allowed: {', '.join(FORMS)}")
    if to.exists():
        raise UserError(f"{to} exists already; delete it or give another --to")
    to.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(to) as half:
        make(folder, form, half)
    return to


def _quantised(folder: Path, form: str, half: Path) -> None:
    if find_spec("torchao") is None:
        raise UserError(
            f"form {form!r} needs torchao, which is not installed; `pip install --no-deps torchao==0.18.0`"
        )
    from torchao import quantization  # noqa: PLC0415 - optional
    from transformers import AutoModelForCausalLM, TorchAoConfig  # noqa: PLC0415 - heavy

    how = TorchAoConfig(getattr(quantization, QUANTISED[form])())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", quantization_config=how)
    model.save_pretrained(half)
    for path in folder.iterdir():  # tokenizer, template, card
        weights = ".safetensors" in path.name
        if path.is_file() and not weights and not (half / path.name).exists():
            shutil.copy2(path, half / path.name)


def _gguf(folder: Path, form: str, half: Path) -> None:
    kind = form.removeprefix("gguf-")
    out = str(half / f"{folder.parent.name}-{kind}.gguf")
    converter = _converter()
    with _as_released(folder) as read:
        name = ["--model-name", folder.parent.name]
        command = [*converter, str(read), "--outfile", out, "--outtype", kind, *name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
        raise UserError(f"llama.cpp's converter refused {folder}: {one_line(ValueError(said[-1]))}")


@contextmanager
def _as_released(folder: Path) -> Iterator[Path]:
    """The checkpoint with a hybrid's configuration in the words of the released ones.

    transformers 5 has sizes of experts in every hybrid's, which the converter takes for a mixture of
    experts: it then writes a width of 0 for each feed-forward layer, and says nothing. It reads the file
    itself, and not through transformers, where that does not know the model's type.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pattern = ""
    if config.get("model_type") == "nemotron_h":
        pattern = pattern_of(config.get("layers_block_type") or ())
    if not pattern or "E" in pattern:
        yield folder
        return
    released = {k: v for k, v in config.items() if k not in _OF_EXPERTS} | {
        "model_type": "nemotron_h_released",
        "hybrid_override_pattern": pattern,
        "num_hidden_layers": len(pattern),
    }
    with tempfile.TemporaryDirectory() as made:
        for path in folder.iterdir():
            if path.name != "config.json":
                (Path(made) / path.name).symlink_to(path.absolute())
        (Path(made) / "config.json").write_text(json.dumps(released), encoding="utf-8")
        yield Path(made)


def _converter() -> list[str]:
    """Its command: on the path, or in the folder of LLAMA_CPP. Raises: UserError."""
    place = os.environ.get("LLAMA_CPP")
    found = Path(place) / _CONVERTER if place else shutil.which(_CONVERTER)
    if found is None or not Path(found).is_file():
        where = f"LLAMA_CPP ({place})" if place else "the path"
        raise UserError(
            f"a GGUF needs llama.cpp's {_CONVERTER}, which is not in {where}; clone llama.cpp, install its "
            "requirements, and set LLAMA_CPP to its folder"
        )
    return [sys.executable, str(found)]


def distance(folder: Path, exported: Path, *, rows: int = 16, tokens: int = 64) -> Distance:
    """The exported model, read back by transformers, against the original, on what the original itself says:
    `rows` texts of `tokens` tokens, sampled from it."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    ours: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    first = ours.config.bos_token_id
    start = torch.full((rows, 1), first if isinstance(first, int) else 0)
    with torch.no_grad():
        ids = ours.generate(start, do_sample=True, max_new_tokens=tokens, min_new_tokens=tokens)
        theirs: Any = AutoModelForCausalLM.from_pretrained(exported).eval()
        one, two = (m(ids).logits[:, :-1].float().log_softmax(-1) for m in (ours, theirs))
    kl = (one.exp() * (one - two)).sum(-1)
    same = (one.argmax(-1) == two.argmax(-1)).float()
    return Distance(float(kl.mean()), float(same.mean()), kl.numel())
