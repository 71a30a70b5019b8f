"""The words of the mismatch gate: kinds of layers that differ, by how much, and the others."""

from rl.diagnosis import LayerError, explain

FINE = [
    LayerError("embedding", None, 0.0, 0.0),
    LayerError("Mamba-2", 0, 2e-7, 3e-7),
    LayerError("attention", 1, 1e-7, 1e-7),
    LayerError("Mamba-2", 2, 2e-7, 4e-7),
    LayerError("head", None, 2e-6, 1e-6),
]


def test_the_kinds_that_differ_are_named_with_their_layers() -> None:
    errors = [*FINE]
    errors[1] = errors[1]._replace(reply=0.31)
    errors[3] = errors[3]._replace(prompt=0.002, reply=0.25)
    assert explain(errors, "float32") == (
        "layers that differ: Mamba-2 (layer 0, 2) by 0.002 on prompts, 0.31 in decoding. "
        "The others agree: embedding 0, attention 1e-07, head 2e-06"
    )
    errors[4] = errors[4]._replace(prompt=float("nan"))
    assert "; head by nan nats on prompts, 1e-06 nats in decoding" in explain(errors, "float32")


def test_rounding_is_not_a_difference() -> None:
    assert explain(FINE, "float32").startswith("fed the same inputs at temperature 1, every layer")
    half = [e._replace(prompt=0.02, reply=0.05) for e in FINE]
    assert explain(half, "bfloat16").startswith("fed the same inputs")
    assert explain(half, "float32").startswith("layers that differ: embedding by 0.02")
