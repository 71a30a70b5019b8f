"""A hybrid in a live vLLM engine in bf16: what its layers convolve with follows the policy."""

from collections.abc import Iterator

import pytest
import torch

from engine import vllm_engine
from engine.sync_check import SyncError
from tests.sync_pair import Pair, pair_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = pair_of("all weights", tmp_path_factory.mktemp("pair"), "bfloat16")
    yield made
    made.engine.close()


def _move_convolutions(pair: Pair) -> None:
    with torch.no_grad():
        for name, parameter in pair.model.named_parameters():
            if name.endswith("conv1d.weight"):
                parameter.add_(0.05)


def test_the_layers_convolve_with_what_was_sent(pair: Pair) -> None:
    """vLLM packs the weights elsewhere on a CPU with bf16 instructions, and the mixers read a view of the old."""
    _move_convolutions(pair)
    pair.sync()
    live, found = pair.engine.live_model(), 0
    for name, parameter in pair.model.named_parameters():
        if name.endswith("conv1d.weight"):
            mixer = live.get_submodule(name.removesuffix(".conv1d.weight"))
            assert torch.equal(mixer.conv_weights, parameter.detach().squeeze(1).bfloat16())
            found += 1
    assert found == 3


def test_weights_that_stayed_behind_are_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = pair.engine.live_model().get_submodule("model.layers.0.mixer.conv1d")
    if not hasattr(layer, "_cpu_unpacked_conv_weight"):
        pytest.skip(
            "this CPU has no bf16 instructions: nothing is packed, and the view is the weight"
        )
    monkeypatch.setattr(vllm_engine, "renew_conv_views", lambda model: None)
    _move_convolutions(pair)
    with pytest.raises(SyncError, match=r"conv1d\.weight"):
        pair.sync()
