"""Use the weights of a checkpoint in a model without copying them from their file."""

from itertools import chain
from typing import Dict, Iterable, Set

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor

from ..host import release_pages
from ..modules.experts import Experts
from .reading import Unreadable


def with_weights(
    model: BaseFairseqModel, weights: Dict[str, Tensor], widen_experts: bool = True
) -> BaseFairseqModel:
    """Make weights of a checkpoint the model's own, in evaluation mode.

    Those that are not in float32 (of --fp16 and --bf16) are copied: CPUs compute in float32.
    Without widen_experts, experts are left in the file too: on CPU each is cast when it is used.
    Raises Unreadable for weights of another model.
    """
    try:
        torch.nn.Module.load_state_dict(model, weights, assign=True)
    except RuntimeError as error:  # its first line names the class alone
        reason = " ".join(str(error).split("\n")[1:2]) or str(error)
        raise Unreadable(f"not the weights of its model: {reason.strip()[:200]}") from error
    stay = [] if widen_experts else [
        parameter for module in model.modules() if isinstance(module, Experts)
        for parameter in module.parameters()
    ]
    _widen(chain(model.parameters(), model.buffers()), {id(parameter) for parameter in stay})
    return model.eval().requires_grad_(False)


def _widen(tensors: Iterable[Tensor], stay: Set[int]) -> None:
    """Cast tensors to float32 but for some (by id); what shares its memory does so afterwards."""
    wide: Dict[int, Tensor] = {}
    for tensor in tensors:
        if id(tensor) in stay or not tensor.is_floating_point() or tensor.dtype == torch.float32:
            continue
        stored = tensor.data
        if stored.data_ptr() not in wide:
            wide[stored.data_ptr()] = stored.float()
            release_pages([stored])
        tensor.data = wide[stored.data_ptr()]
