"""The engine's checkpoint with a sender's adapters in it, tensor after tensor as it is asked for.

The sender keeps its base frozen, and the engine was given that base's folder: a sync carries the adapters
alone, and nobody holds a merged model beside the one that the engine computes with.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.sync_check import Mark, SyncError, check_base
from model.weights import LazyTensors, tied_names
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch


class Merged(Mapping[str, "torch.Tensor"]):
    """Name -> tensor of the adapted model: fp32 where an adapter is added, else in its base's type.

    Each is read, and merged where it has an adapter, every time that it is asked for.
    """

    def __init__(
        self,
        folder: str,
        base: Mapping[str, Mark],
        adapters: "Sequence[tuple[str, torch.Tensor]]",
        *,
        version: int,
        device: str,
    ) -> None:
        """folder: a checkpoint, which must be the adapters' base to the bit. device: where it is merged.

        Raises: SyncError where it is another, has gone, or the adapters do not fit it.
        """
        from model.lora import adapters_of  # noqa: PLC0415 - torch

        self._base, self._device = base, device
        try:
            self._held = LazyTensors(folder)
            # Each time, not once: a file can change under an engine that lives for days.
            spare = tied_names(folder) - base.keys()
            names = (name for name in self._held if name not in spare)
            check_base(base, ((name, self._typed(name)) for name in names), folder, version)
            self._adapters = adapters_of(dict(adapters))
        except (UserError, ValueError) as error:
            raise SyncError(
                f"weight sync of version {version}: {error}. Nothing was loaded"
            ) from None
        if astray := sorted(self._adapters.keys() - base.keys()):
            raise SyncError(
                f"weight sync of version {version}: adapters of {astray[0]}, which {folder} does not have. "
                "Nothing was loaded"
            )

    def __getitem__(self, name: str) -> "torch.Tensor":
        tensor = self._typed(name)
        adapter = self._adapters.get(name)
        if adapter is None:
            return tensor
        a, b = adapter.a.to(self._device), adapter.b.to(self._device)
        return adapter._replace(a=a, b=b).merged(tensor.to(self._device))

    def _typed(self, name: str) -> "torch.Tensor":
        """In the sender's type, where it has such a tensor."""
        import torch  # noqa: PLC0415 - heavy

        tensor, mark = self._held[name], self._base.get(name)
        return tensor if mark is None else tensor.to(getattr(torch, mark.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
