"""Weights that several trainers hold in shares, on their way to the engines through Ray's object store.

Each trainer puts its share itself, so none of them ever holds the model. What travels between them is a
reference: through a small actor, since Ray keeps count of references only inside its own calls.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.tensor_bytes import pack, unpack

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shares:
    """References to packed tensors in the object store, one of each trainer."""

    references: list[Any]

    def tensors(self) -> "list[tuple[str, torch.Tensor]]":
        """All of them, read where they lie."""
        import ray  # noqa: PLC0415 - only where Ray is used

        return [pair for packed in ray.get(self.references) for pair in unpack(packed)]


class Mailbox:
    """An actor that hands references from the trainers to the one that drives the engines."""

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}

    def put(self, rank: int, reference: list[Any]) -> None:
        """reference: in a list, or Ray would hand over what it refers to."""
        self._held[rank] = reference[0]

    def take(self) -> list[Any]:
        """All that lie here, in the order of ranks; nothing is left."""
        held, self._held = self._held, {}
        return [held[rank] for rank in sorted(held)]


class Post:
    """One trainer's way to the mailbox. Every trainer makes one, by the same name."""

    def __init__(self, name: str) -> None:
        import ray  # noqa: PLC0415 - only where Ray is used

        made = ray.remote(Mailbox).options(name=name, get_if_exists=True, num_cpus=0)
        self._box = made.remote()

    def send(self, rank: int, tensors: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Put this trainer's tensors into the object store; all references are there once all have."""
        import ray  # noqa: PLC0415 - only where Ray is used

        ray.get(self._box.put.remote(rank, [ray.put(pack(tensors))]))

    def collect(self) -> Shares:
        """What all trainers have sent."""
        import ray  # noqa: PLC0415 - only where Ray is used

        return Shares(ray.get(self._box.take.remote()))
