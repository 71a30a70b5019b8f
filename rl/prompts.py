"""The endless pool of prompts: every pass in a new order, every place decided by seed and number."""

import random
from collections.abc import Sequence

from environments.protocol import Task
from workbench.conversation import Conversation


class Pool:
    """Prompt number i of an endless sequence over the given ones; a resume needs only the number."""

    def __init__(self, conversations: Sequence[Conversation] | Sequence[Task], seed: int) -> None:
        self._conversations, self._seed = conversations, seed
        self._orders: dict[int, list[int]] = {}

    def take(self, position: int, count: int) -> list[Conversation | Task]:
        """Prompts number position to position + count - 1."""
        size = len(self._conversations)
        return [
            self._conversations[self._order(i // size)[i % size]]
            for i in range(position, position + count)
        ]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self._conversations)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]
