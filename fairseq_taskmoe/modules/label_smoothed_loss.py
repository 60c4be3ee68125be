"""Label-smoothed cross entropy; besides the logits, only their gradient is stored in full size.

Shapes: R rows (target positions), V words.
"""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**19  # logits per block on CPU: a block fits in a core's cache


def label_smoothed_nll(
    logits: Tensor, target: Tensor, epsilon: float, padding_idx: int
) -> Tuple[Tensor, Tensor]:
    """Return the smoothed loss (R,) and the plain NLL (R,) of logits (R, V), in nats.

    As in fairseq, epsilon is distributed evenly over the other V - 1 words. Both losses are 0 where
    target (R,) is padding, and float32. Only the smoothed loss has a gradient.
    """
    loss, nll = _LabelSmoothedNll.apply(logits, target, epsilon, padding_idx)
    return loss, nll


class _LabelSmoothedNll(torch.autograd.Function):
    """With p = softmax(logits) the gradient of the loss is p - q, where q is the smoothed target.

    It is computed in forward, so that exp is computed once. p - q is computed in float32 and then
    rounded: in half precision the difference of a rounded p and q would lose precision.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, epsilon: float, padding_idx: int
    ) -> Tuple[Tensor, Tensor]:
        num_rows, num_words = logits.shape
        epsilon_per_word = epsilon / (num_words - 1)
        grad_logits = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        log_sums = torch.empty(num_rows, device=logits.device)
        sums = torch.empty_like(log_sums)
        scale = stored_scale(logits.dtype)
        on_target = torch.full(
            (num_rows, 1), epsilon + epsilon_per_word - 1, device=logits.device
        )
        for rows in row_chunks(logits):
            block = logits[rows].float()
            p = block.softmax(dim=1)
            # the largest p is at least 1 / V, so its logarithm is precise
            log_sums[rows] = block.amax(dim=1) - p.amax(dim=1).log()
            torch.sum(block, dim=1, out=sums[rows])
            if grad_logits is not None:
                p.sub_(epsilon_per_word)
                p.scatter_add_(1, target[rows].unsqueeze(1), on_target[rows])
                grad_logits[rows] = p.mul_(scale) if scale != 1 else p
        is_word = target.ne(padding_idx)
        chosen = logits.gather(1, target.unsqueeze(1)).squeeze(1).float()
        nll = (log_sums - chosen) * is_word
        smooth = (num_words * log_sums - sums) * is_word
        ctx.save_for_backward(grad_logits, is_word)
        ctx.mark_non_differentiable(nll)
        return (1 - epsilon - epsilon_per_word) * nll + epsilon_per_word * smooth, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> Tuple[Tensor, None, None, None]:
        grad_logits, is_word = ctx.saved_tensors
        weights = (grad_loss * is_word / stored_scale(grad_logits.dtype)).unsqueeze(1)
        for rows in row_chunks(grad_logits):
            grad_logits[rows].mul_(weights[rows])  # computed in float32, then rounded
        return grad_logits, None, None, None


def stored_scale(dtype: torch.dtype) -> int:
    """Return the factor by which differences of probabilities are multiplied to be stored.

    In float16 differences below 6e-8 would become 0, before the loss scale is applied.
    """
    return 2**12 if dtype == torch.float16 else 1


def row_chunks(
    logits: Tensor, gpu_rows: int = 2**14, on_cpu: Optional[bool] = None
) -> List[slice]:
    """Return blocks of rows of logits (R, V), larger ones for a GPU.

    on_cpu defaults to whether logits are on a CPU.
    """
    on_cpu = logits.device.type == "cpu" if on_cpu is None else on_cpu
    step = max(1, CHUNK_ELEMENTS // logits.size(1)) if on_cpu else gpu_rows
    return [slice(start, start + step) for start in range(0, logits.size(0), step)]
