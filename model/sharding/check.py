"""A self-test of document isolation on a sharded model, whose rows processes may share."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from model.layers import context
from model.layers.isolation import IsolationError, check_scales
from model.sharding.shard import inside
from workbench.distributed import group

# Documents of the test row: they cross chunks, the convolution's window and the edges of slices; one of
# one token. Their sum is a multiple of 8, the most processes that share a row.
_LENGTHS = (37, 1, 2, 29, 3)


def check_shards(model: PreTrainedModel, lengths: Sequence[int] = _LENGTHS) -> None:
    """Raise IsolationError unless changing one document of a row changes no bit of another.

    lengths: of the row's documents.

    Every process must call it. Weights, mode and generators are left as they were. The other proofs of
    `check_isolation` are of code that is the same in one process.
    """
    was_training = model.training
    model.eval()
    try:
        _check(model, lengths)
    finally:
        model.train(was_training)


@torch.no_grad()
def _check(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    check_scales(model, group.device())
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, sum(lengths)), generator=generator).to(group.device())
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    seq_idx = numbers.int()[None].to(group.device())

    def hidden(tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = inside(
            model,
            lambda whole: (
                whole.base_model(
                    input_ids=tokens, seq_idx=seq_idx, use_cache=False
                ).last_hidden_state
            ),
        )
        return out

    before = hidden(ids)
    for document in range(len(lengths)):
        mine = seq_idx == document
        after = hidden(torch.where(mine, (ids + 1) % vocabulary, ids))
        changed = (after != before).any(-1)
        own = context.local(model, mine)
        if group.any_of(bool(changed[~own].any())):
            raise IsolationError(
                f"changing document {document} changes the hidden states of others"
            )
        if not group.any_of(bool(changed[own].any())):
            raise IsolationError(f"changing document {document} changes nothing, not even itself")
    if dist.is_initialized():
        group.barrier()
