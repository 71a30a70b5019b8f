"""The rows of each step, as transformers' Trainer draws them."""

import math

import torch


class RowOrder:
    """Which rows each step has: one order, whatever the number of processes.

    Every epoch is a permutation of its own (shuffled: false: the order that they came in); a step never
    spans two. As transformers' Trainer has it.
    """

    def __init__(
        self, num_rows: int, rows_per_step: int, epochs: float, seed: int, *, shuffled: bool = True
    ) -> None:
        self.shuffled = shuffled
        self.num_rows, self.rows_per_step, self.seed = num_rows, rows_per_step, seed
        self.epoch_steps = -(-num_rows // rows_per_step)
        self.num_steps = math.ceil(epochs * self.epoch_steps)

    def step(self, number: int) -> list[int]:
        """The rows of a step, counted from 0."""
        epoch, place = divmod(number, self.epoch_steps)
        first = place * self.rows_per_step
        if not self.shuffled:
            return list(range(self.num_rows))[first : first + self.rows_per_step]
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.num_rows, generator=generator)
        return order[first : first + self.rows_per_step].tolist()
