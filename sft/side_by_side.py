"""The rows of one TRL step side by side on the CPU, each worker with a thread of its own.

Threads inside an operation gain little on a small model (model.parallel); parts of the batch that
meet once a step do. Rows of like length go together, so that less is padded.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from model.parallel import GradientWorkers

# More parts than workers even out their lengths; fewer, larger products are cheaper.
_PARTS_PER_WORKER = 2


def parts_of(batch: dict[str, torch.Tensor], num_parts: int) -> list[dict[str, torch.Tensor]]:
    """Split a padded batch of [B, T] tensors by length, each part cut to its longest row.

    Rows end in padding of one document number of its own, or in none; a row keeps one padded token
    at most where all of its part is padded.
    """
    lengths = _lengths(batch["labels"])
    order = torch.argsort(lengths, descending=True, stable=True)
    parts = []
    for rows in order.chunk(min(num_parts, len(order))):
        width = max(int(lengths[rows].max()), 1)
        parts.append({name: values[rows, :width] for name, values in batch.items()})
    return parts


def _lengths(labels: torch.Tensor) -> torch.Tensor:
    """Tokens up to the last one with loss [B]: none after it changes the gradient of any before."""
    width = labels.shape[1]
    places = torch.arange(1, width + 1, device=labels.device)
    return torch.where(labels != -100, places, 0).max(dim=1).values


class SideBySide:
    """Mixed in before TRL's SFTTrainer: `threads` workers share the rows of a CPU microbatch.

    The sum of the parts' gradients is the batch's: TRL divides by the tokens of the whole step.
    """

    threads: int = 1
    """Workers; 1 where the model draws random numbers (dropout), whose order must be fixed."""
    _workers: GradientWorkers | None = None

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gradients of a microbatch, added to what the step has so far. Returns the loss."""
        own: Any = self
        if not self._applies(inputs, num_items_in_batch):
            # TRL counts the width of one row; a batch has several.
            return self._counted(
                inputs,
                lambda: super(SideBySide, self).training_step(  # type: ignore[misc]
                    model, inputs, num_items_in_batch
                ),
            )
        model.train()
        batch = own._prepare_inputs(inputs)
        parameters = [p for p in model.parameters() if p.requires_grad]
        before = [p.grad for p in parameters]

        def loss(part: dict[str, torch.Tensor]) -> torch.Tensor:
            with own.compute_loss_context_manager():  # autocast is a matter of each thread
                value: torch.Tensor = own.compute_loss(
                    model, part, num_items_in_batch=num_items_in_batch
                )
            return value

        def run() -> torch.Tensor:
            if self._workers is None:
                self._workers = GradientWorkers(parameters, self.threads)
            parts = parts_of(batch, self.threads * _PARTS_PER_WORKER)
            return torch.tensor(self._workers.run([partial(loss, part) for part in parts]))

        total = self._counted(batch, run)
        for parameter, earlier in zip(parameters, before, strict=True):
            if earlier is not None and parameter.grad is not None:
                parameter.grad += earlier
        return total

    def _applies(self, inputs: dict[str, Any], num_items_in_batch: Any) -> bool:
        own: Any = self
        return (
            self.threads > 1
            and num_items_in_batch is not None
            and len(inputs["input_ids"]) > 1
            and own.accelerator.num_processes == 1
            and own.args.device.type == "cpu"
            and not own.args.gradient_checkpointing
            and own.args.loss_type == "nll"
        )

    def _counted(self, batch: dict[str, Any], run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run, and count the tokens of all rows, without padding."""
        own: Any = self
        counted = own._total_train_tokens
        total = run()
        gathered = own.accelerator.gather_for_metrics(_num_tokens(batch).to(own.args.device))
        own._total_train_tokens = counted + int(gathered.sum())
        own._metrics["train"]["num_tokens"] = [own._total_train_tokens]
        return total


def _num_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Tokens up to the last one with loss, over all rows (scalar): the rest is padding."""
    return _lengths(batch["labels"]).sum()
