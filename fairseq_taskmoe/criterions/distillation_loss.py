"""The KL divergence between the word probabilities of a teacher and of a student.

Shapes: R rows (target positions), V words.
"""

from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..modules.label_smoothed_loss import row_chunks, stored_scale

GPU_ROWS = 2**11  # rows per block on a GPU: a block needs five matrices of that many rows


def divergence_from_teacher(
    logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float, padding_idx: int
) -> Tensor:
    """Return KL(p_T || p_S) (R,) in nats, given the student's and the teacher's logits (R, V).

    p = softmax(logits / temperature); 0 where target (R,) is padding. The result is float32, or
    float64 for float64 logits. Only the student's logits get a gradient, which overwrites
    teacher_logits to save memory.
    """
    return _Divergence.apply(logits, teacher_logits, target, temperature, padding_idx)


class _Divergence(torch.autograd.Function):
    """The gradient with respect to the student's logits is (p_S - p_T) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float,
        padding_idx: int,
    ) -> Tensor:
        precise = torch.promote_types(logits.dtype, torch.float32)
        divergence = torch.empty(logits.size(0), device=logits.device, dtype=precise)
        same_dtype = teacher_logits.dtype == logits.dtype
        grad_logits = teacher_logits if same_dtype else torch.empty_like(logits)
        for rows in row_chunks(logits, GPU_ROWS):
            student = logits[rows].to(precise) / temperature
            teacher = teacher_logits[rows].to(precise) / temperature
            p_student, p_teacher = student.softmax(dim=1), teacher.softmax(dim=1)
            log_sums = _log_sum(student, p_student) - _log_sum(teacher, p_teacher)
            divergence[rows] = (p_teacher * teacher.sub_(student)).sum(dim=1) + log_sums
            if ctx.needs_input_grad[0]:
                scaled = p_student.sub_(p_teacher).mul_(stored_scale(grad_logits.dtype))
                grad_logits[rows] = scaled.to(grad_logits.dtype)
        is_word = target.ne(padding_idx)
        ctx.save_for_backward(grad_logits, is_word)
        ctx.temperature = temperature
        return divergence.clamp_(min=0).mul_(is_word)  # rounding can give less than 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None, None]:
        grad_logits, is_word = ctx.saved_tensors
        weights = grad * is_word / (ctx.temperature * stored_scale(grad_logits.dtype))
        for rows in row_chunks(grad_logits, GPU_ROWS):
            scaled = grad_logits[rows] * weights[rows].unsqueeze(1)
            grad_logits[rows] = scaled.to(grad_logits.dtype)
        return grad_logits, None, None, None, None


def _log_sum(logits: Tensor, p: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) (R,), given p = softmax(logits) with a precise maximum."""
    return logits.amax(dim=1) - p.amax(dim=1).log()
