"""The memory of a rank's device, and the sizes of checkpoints."""

import math
from typing import Dict, List, NamedTuple, Tuple

import torch.nn as nn

from ..distributed.layout import ExpertLayout
from ..modules.experts import Experts

GRADIENT_BUFFER = 2**28  # elements at most, in fairseq's legacy_ddp
Shape = Tuple[int, ...]


class LocalParameters(NamedTuple):
    """The parameters of one rank."""

    shared: List[Shape]
    experts: List[Shape]
    total: int  # of the whole model, with all experts
    saved_values: int  # in a checkpoint of the whole model, which has a copy for each name

    @property
    def num_shared(self) -> int:
        return sum(map(math.prod, self.shared))

    @property
    def num_experts(self) -> int:
        return sum(map(math.prod, self.experts))

    @property
    def num_local(self) -> int:
        return self.num_shared + self.num_experts


def local_parameters(model: nn.Module, layout: ExpertLayout) -> LocalParameters:
    """Return the parameters of a rank, for a model that may be on the meta device."""
    in_experts = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Experts)
        for parameter in module.parameters()
    }
    shared, experts = [], []
    for parameter in model.parameters():
        if id(parameter) in in_experts:
            experts.append((layout.experts_per_rank, *parameter.shape[1:]))
        else:
            shared.append(tuple(parameter.shape))
    return LocalParameters(
        shared,
        experts,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(tensor.numel() for tensor in model.state_dict().values()),
    )


def state_bytes(shapes: List[Shape], precision: str, optimizer: str) -> Dict[str, int]:
    """Return the bytes of weights, gradients and optimizer state in fairseq.

    With fp16 (unflattened) and bf16 the optimizer has float32 master weights, with their own
    float32 gradients.
    """
    num = sum(map(math.prod, shapes))
    reduced = precision != "fp32"
    return {
        "weights": num * value_bytes(precision),
        "gradients": num * value_bytes(precision),
        "fp32 masters": 4 * num * reduced,
        "fp32 gradients": 4 * num * reduced,
        "optimizer state": 4 * sum(state_values(shape, optimizer) for shape in shapes),
    }


def state_values(shape: Shape, optimizer: str) -> int:
    """Return the number of float32 values in an optimizer's state, with fairseq's defaults.

    Adafactor factors the last two dimensions; sgd has no momentum.
    """
    num = math.prod(shape)
    if optimizer == "adafactor":
        return num if len(shape) < 2 else num // shape[-1] + num // shape[-2]
    return {"adam": 2, "nag": 1, "adagrad": 1, "sgd": 0}[optimizer] * num


def value_bytes(precision: str) -> int:
    """Return the bytes of a value in the model's dtype."""
    return 4 if precision == "fp32" else 2


def gradient_buffer_bytes(local: LocalParameters, precision: str, num_ranks: int) -> int:
    """Return the size of the buffer in which legacy_ddp reduces shared gradients."""
    if num_ranks == 1:
        return 0
    return min(GRADIENT_BUFFER, local.num_local) * value_bytes(precision)


def step_work_bytes(local: LocalParameters, precision: str, optimizer: str) -> int:
    """Return the temporary memory for the largest parameter, in backward or in the optimizer.

    That is a second gradient before it is added to the first, or a float32 buffer of the optimizer.
    """
    largest = max(map(math.prod, local.shared + local.experts))
    return largest * max(value_bytes(precision), 4 if optimizer != "sgd" else 0)


def loss_work_bytes(num_targets: float, vocab_size: int, precision: str) -> float:
    """Return the memory of the loss without the logits: their gradient, and float32 copies."""
    rows = min(num_targets, 2**14)  # the loss computes that many rows at once
    copies = 1 if precision == "fp32" else 2
    return vocab_size * (num_targets * value_bytes(precision) + rows * copies * 4)


def checkpoint_sizes(
    local: LocalParameters, layout: ExpertLayout, optimizer: str
) -> Dict[str, float]:
    """Return the bytes of checkpoint files, whose values are float32 with every --precision.

    `whole` is the ordinary file; `shard_0` and `shard` are the files of --moe-sharded-checkpoints,
    of which only the first has the shared parameters. `moments` is the optimizer state of the whole
    file, which each device loads when training resumes. A parameter with several names is written
    once for each name if the values were copied to the host, as from a GPU.
    """
    moments = {
        part: 4 * sum(state_values(shape, optimizer) for shape in shapes)
        for part, shapes in (("shared", local.shared), ("experts", local.experts))
    }
    shared_values = local.saved_values - local.num_experts * layout.size
    shard = 4 * local.num_experts + moments["experts"]
    all_moments = moments["shared"] + moments["experts"] * layout.size
    return {
        "whole": 4 * local.saved_values + all_moments,
        "shard_0": shard + 4 * shared_values + moments["shared"],
        "shard": shard,
        "moments": all_moments,
    }

