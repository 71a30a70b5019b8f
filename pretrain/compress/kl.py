"""KL of a student's next-token distribution from a teacher's, without ever holding all logits.

As in model.loss the logits of a few hundred tokens are made, turned into the gradient and used
up. Forward KL on logits only (arXiv 2508.14444, section 4.4), at temperature 1.
"""

from typing import Any, NamedTuple

import torch

from model.loss import IGNORED, add_product, logit_slices

# Both distributions and what is worked out of them, in tables of a loss.
_TABLES = 4


class KlSums(NamedTuple):
    """Sums over valid tokens, in nats. kl has a gradient; next_token, the cross entropy, has none."""

    kl: torch.Tensor
    next_token: torch.Tensor


def linear_kl(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_weight: torch.Tensor,
    labels: torch.Tensor,
) -> KlSums:
    """Sum over labels that are not -100 of KL(teacher || student) of their distributions.

    hidden [..., D], weight [V, D] of the student; teacher_hidden [..., E], teacher_weight [V, E];
    labels [...] already shifted to the token to predict. Under autocast the products are in its
    type; the distributions are in fp32, or in fp64 where everything is.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        teacher = teacher_hidden.detach(), teacher_weight.detach()
        return KlSums(*_LinearKL.apply(hidden, weight, *teacher, labels, dtype))


class _LinearKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        teacher_hidden: torch.Tensor,
        teacher_weight: torch.Tensor,
        labels: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flat, matrix = hidden.reshape(-1, hidden.shape[-1]).to(dtype), weight.to(dtype)
        goal = teacher_hidden.reshape(-1, teacher_hidden.shape[-1]).to(dtype)
        goal_matrix = teacher_weight.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        targets = labels.reshape(-1)
        wanted = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.zeros_like(flat) if wanted else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if wanted else None
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        for rows in logit_slices(len(flat), len(weight), flat.device, tables=_TABLES):
            valid = targets[rows] != IGNORED
            own = torch.mm(flat[rows], matrix.T).to(wide).log_softmax(1)
            theirs = torch.mm(goal[rows], goal_matrix.T).to(wide).log_softmax(1)
            chosen = own.gather(1, targets[rows].clamp(min=0)[:, None]).squeeze(1)
            probabilities = theirs.exp()
            kl = (probabilities * (theirs - own)).sum(1)
            sums[0] += kl.where(valid, 0.0).sum(dtype=torch.float64)
            sums[1] -= chosen.where(valid, 0.0).sum(dtype=torch.float64)
            if grad_hidden is None or grad_weight is None:
                continue
            # d KL / d student logits = student's probabilities - teacher's
            grad = own.exp_().sub_(probabilities).mul_(valid[:, None]).to(dtype)
            torch.mm(grad, matrix, out=grad_hidden[rows])
            add_product(grad_weight, grad.T, flat[rows])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.like = (hidden.shape, hidden.dtype, weight.dtype)
        kl_sum, next_token = sums.to(wide)
        ctx.mark_non_differentiable(next_token)
        return kl_sum, next_token

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        shape, hidden_dtype, weight_dtype = ctx.like
        return (
            (grad_hidden * grads[0]).view(shape).to(hidden_dtype),
            (grad_weight * grads[0]).to(weight_dtype),
            None,
            None,
            None,
            None,
        )
