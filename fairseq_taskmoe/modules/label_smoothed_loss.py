"""Label-smoothed cross entropy from logits: one matrix of their size beside them, the gradient.

Shapes: R rows (target positions), V words.
"""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**19  # logits that are worked on at once: they stay in a core's cache


def label_smoothed_nll(
    logits: Tensor, target: Tensor, epsilon: float, padding_idx: int
) -> Tuple[Tensor, Tensor]:
    """Return the smoothed loss (R,) and the plain NLL (R,) of logits (R, V), in nats.

    Defined as in fairseq: a share of epsilon is spread over the other V - 1 words. Both are 0 where
    target (R,) is padding. float32 whatever the logits are; only the smoothed loss has a gradient.
    """
    loss, nll = _LabelSmoothedNll.apply(logits, target, epsilon, padding_idx)
    return loss, nll


class _LabelSmoothedNll(torch.autograd.Function):
    """With p = softmax(logits) the gradient of the loss is p - q, q the smoothed target.

    It is computed in forward, so that exp is taken once of each logit. Where p is near q their
    difference is small: in half precision p - q is rounded once, and p is not.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, epsilon: float, padding_idx: int
    ) -> Tuple[Tensor, Tensor]:
        num_rows, num_words = logits.shape
        spread = epsilon / (num_words - 1)
        kept = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        log_sums = torch.empty(num_rows, device=logits.device)
        sums = torch.empty_like(log_sums)
        scale = stored_scale(logits.dtype)
        on_target = torch.full((num_rows, 1), epsilon + spread - 1, device=logits.device)
        for rows in row_chunks(logits):
            block = logits[rows].float()
            p = block.softmax(dim=1)
            # the largest p is at least 1 / V, so that its logarithm is exact
            log_sums[rows] = block.amax(dim=1) - p.amax(dim=1).log()
            torch.sum(block, dim=1, out=sums[rows])
            if kept is not None:
                p.sub_(spread).scatter_add_(1, target[rows].unsqueeze(1), on_target[rows])
                kept[rows] = p.mul_(scale) if scale != 1 else p
        real = target.ne(padding_idx)
        chosen = logits.gather(1, target.unsqueeze(1)).squeeze(1).float()
        nll = (log_sums - chosen) * real
        smooth = (num_words * log_sums - sums) * real
        ctx.save_for_backward(kept, real)
        ctx.mark_non_differentiable(nll)
        return (1 - epsilon - spread) * nll + spread * smooth, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> Tuple[Tensor, None, None, None]:
        kept, real = ctx.saved_tensors
        weights = (grad_loss * real / stored_scale(kept.dtype)).unsqueeze(1)
        for rows in row_chunks(kept):
            kept[rows].mul_(weights[rows])  # in float32, and rounded
        return kept, None, None, None


def stored_scale(dtype: torch.dtype) -> int:
    """Return the factor by which differences of probabilities are scaled to be stored in a type.

    In float16 those below 6e-8 would become 0, before the loss scale can magnify them.
    """
    return 2**12 if dtype == torch.float16 else 1


def row_chunks(
    logits: Tensor, gpu_rows: int = 2**14, on_cpu: Optional[bool] = None
) -> List[slice]:
    """Return the blocks of rows to work on: a GPU needs large ones.

    on_cpu: which of the two (default: as the device of logits (R, V) is).
    """
    on_cpu = logits.device.type == "cpu" if on_cpu is None else on_cpu
    step = max(1, CHUNK_ELEMENTS // logits.size(1)) if on_cpu else gpu_rows
    return [slice(start, start + step) for start in range(0, logits.size(0), step)]
