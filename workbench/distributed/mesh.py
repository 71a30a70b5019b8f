"""How the processes of one training are laid out: copies x shards x context.

Numbers run context first, then shards, then copies: the processes that split one row are neighbours,
on one machine where it has enough of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from workbench.distributed import group
from workbench.distributed.config import DistributedConfig
from workbench.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Mesh:
    """A layout and this process's place in it.

    params: what parameters are sharded over (and copied, where it has two axes). data, data_size: which
    share of a step's rows this process has, of how many. context: the processes that hold the slices of
    its rows, itself among them; None where a row is one process's.
    """

    params: DeviceMesh
    data: int
    data_size: int
    context: dist.ProcessGroup | None = None

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a step's items, the same in the processes that split its rows.

        Raises: ValueError where they do not share out: some would wait for others for ever.
        """
        each, rest = divmod(len(items), self.data_size)
        if rest:
            raise ValueError(f"{len(items)} items do not share out over {self.data_size} ranks")
        return items[self.data * each : (self.data + 1) * each]


def make_mesh(config: DistributedConfig) -> Mesh:
    """The mesh of this process group. Every process must call it. Raises: UserError."""
    size = group.workers()
    if size != config.workers:
        raise UserError(f"{size} processes were started for distributed.workers {config.workers}")
    kind, (copies, context) = group.device().type, (config.replicate, config.context)
    shards = size // copies
    sizes, names = (
        ((copies, shards), ("replicate", "shard")) if copies > 1 else ((size,), ("shard",))
    )
    params = init_device_mesh(kind, sizes, mesh_dim_names=names)
    rows = init_device_mesh(kind, (size // context, context), mesh_dim_names=("data", "context"))
    return Mesh(
        params=params,
        data=rows.get_local_rank("data"),
        data_size=size // context,
        context=rows.get_group("context") if context > 1 else None,
    )
