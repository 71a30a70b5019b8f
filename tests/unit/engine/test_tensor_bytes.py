"""Tensors through Ray's object store: what goes in comes out, bit for bit, and nothing is copied."""

import pickle

import torch

from engine.sync_check import tensor_digest
from engine.tensor_bytes import pack, unpack


def test_every_tensor_comes_out_as_it_went_in() -> None:
    made = torch.Generator().manual_seed(1)
    tensors = {
        "matrix": torch.randn(5, 3, generator=made),
        "transposed": torch.randn(5, 3, generator=made).T,
        "half": torch.randn(7, generator=made).bfloat16(),
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "not a number": torch.tensor([float("nan"), float("inf")]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    found = unpack(pickle.loads(pickle.dumps(pack(tensors.items()), protocol=5)))
    assert [name for name, _ in found] == list(tensors)
    for (_, tensor), given in zip(found, tensors.values(), strict=True):
        assert (tensor.dtype, tensor.shape) == (given.dtype, given.shape)
        assert tensor_digest(tensor) == tensor_digest(given)


def test_the_bytes_travel_beside_the_pickle_and_are_read_in_place() -> None:
    weight = torch.randn(1000, 100)
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(pack([("w", weight)]), protocol=5, buffer_callback=buffers.append)
    assert len(small) < 1000
    assert sum(b.raw().nbytes for b in buffers) == weight.numel() * 4
    ((_, again),) = unpack(pickle.loads(small, buffers=buffers))
    assert again.data_ptr() == weight.data_ptr()
