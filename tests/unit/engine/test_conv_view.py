"""Views of a convolution's weights: those that lost their memory are filled, the others left."""

import torch
from torch import nn

from engine.conv_view import renew_conv_views
from engine.readback import Readback


class _Mixer(nn.Module):
    def __init__(self, weight: torch.Tensor, view: torch.Tensor) -> None:
        super().__init__()
        self.conv1d = nn.Module()
        self.conv1d.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("conv_weights", view, persistent=False)


def test_a_view_in_other_memory_gets_the_plain_weights() -> None:
    packed, plain, old = torch.zeros(2, 4), torch.arange(8.0).view(2, 4), torch.ones(2, 4)
    mixer = _Mixer(packed, old)
    mixer.conv1d._cpu_unpacked_conv_weight = plain
    where = mixer.conv_weights.data_ptr()
    renew_conv_views(nn.ModuleList([mixer, nn.Linear(2, 2)]))
    assert torch.equal(mixer.conv_weights, plain) and mixer.conv_weights.data_ptr() == where


def test_a_weight_that_was_replaced_unpacked_is_copied_too() -> None:
    mixer = _Mixer(torch.arange(8.0).view(2, 1, 4), torch.ones(2, 4))
    renew_conv_views(mixer)
    assert torch.equal(mixer.conv_weights, torch.arange(8.0).view(2, 4))


def test_a_view_of_the_weight_is_left() -> None:
    weight = torch.arange(8.0).view(2, 1, 4)
    mixer = _Mixer(weight, weight.view(2, 4))
    renew_conv_views(mixer)
    assert mixer.conv_weights.data_ptr() == mixer.conv1d.weight.data_ptr()


def test_what_is_convolved_with_is_read_back_though_the_weight_is_packed() -> None:
    """Nobody can read the packed weight [2, 4]; the view says what the layer computes with."""
    plain = torch.arange(8.0).view(2, 4)
    given = {"0.conv1d.weight": plain[:, None]}
    right = Readback(nn.ModuleList([_Mixer(torch.zeros(2, 4), plain.clone())]), given)
    assert right.errors == {"0.conv1d.weight": 0.0} and right.unread == []
    stale = Readback(nn.ModuleList([_Mixer(torch.zeros(2, 4), plain + 1)]), given)
    assert stale.errors == {"0.conv1d.weight": float("inf")}
