"""How far a student's word probabilities are from a teacher's, from the logits of both.

Shapes: R rows (target positions), V words.
"""

from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .label_smoothed_loss import row_chunks, stored_scale

GPU_ROWS = 2**11  # on a GPU at once: five matrices of that many rows are there beside the logits


def divergence_from_teacher(
    logits: Tensor, taught: Tensor, target: Tensor, temperature: float, padding_idx: int
) -> Tensor:
    """Return KL(p_T || p_S) (R,) in nats, of the student's logits (R, V) and a teacher's, taught.

    p = softmax(logits / temperature); 0 where target (R,) is padding. float32, or float64 of such
    logits. Only the student's logits get a gradient. It needs no memory of its own: it is written
    over taught, which is lost.
    """
    return _Divergence.apply(logits, taught, target, temperature, padding_idx)


class _Divergence(torch.autograd.Function):
    """The gradient is (p_S - p_T) / temperature; it differs from cross entropy's in nothing."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, taught: Tensor, target: Tensor, temperature: float,
        padding_idx: int,
    ) -> Tensor:
        precise = torch.promote_types(logits.dtype, torch.float32)
        divergence = torch.empty(logits.size(0), device=logits.device, dtype=precise)
        kept = taught if taught.dtype == logits.dtype else torch.empty_like(logits)
        for rows in row_chunks(logits, GPU_ROWS):
            student = logits[rows].to(precise) / temperature
            teacher = taught[rows].to(precise) / temperature
            p_student, p_teacher = student.softmax(dim=1), teacher.softmax(dim=1)
            log_sums = _log_sum(student, p_student) - _log_sum(teacher, p_teacher)
            divergence[rows] = (p_teacher * teacher.sub_(student)).sum(dim=1) + log_sums
            if ctx.needs_input_grad[0]:
                kept[rows] = p_student.sub_(p_teacher).mul_(stored_scale(kept.dtype)).to(kept.dtype)
        real = target.ne(padding_idx)
        ctx.save_for_backward(kept, real)
        ctx.temperature = temperature
        # what is 0 but for rounding is not to be reported as less
        return divergence.clamp_(min=0).mul_(real)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None, None]:
        kept, real = ctx.saved_tensors
        weights = (grad * real / (ctx.temperature * stored_scale(kept.dtype))).unsqueeze(1)
        for rows in row_chunks(kept, GPU_ROWS):
            kept[rows] = (kept[rows] * weights[rows]).to(kept.dtype)
        return kept, None, None, None, None


def _log_sum(logits: Tensor, p: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) (R,), given p = softmax(logits), precise in its largest."""
    return logits.amax(dim=1) - p.amax(dim=1).log()
