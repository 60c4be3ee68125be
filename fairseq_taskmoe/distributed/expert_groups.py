"""The process groups of expert parallelism."""

from typing import Any, Callable, Dict

import torch
import torch.distributed as dist

from .layout import ExpertLayout


class ExpertGroups:
    """A rank's place in a layout of experts, and its process groups."""

    def __init__(self, layout: ExpertLayout):
        """Create the process groups of all ranks: a collective call."""
        self.layout = layout
        self.rank = dist.get_rank()
        self.place = layout.place(self.rank)
        self.group: Any = None  # the ranks that share a copy of the experts
        self.replicas: Any = None  # the ranks that hold the same experts; None for one rank
        for first in range(0, layout.world_size, layout.size):
            self.group = self._joined(layout.group(first)) or self.group
        if layout.num_replicas > 1:
            for place in range(layout.size):
                self.replicas = self._joined(layout.replicas(place)) or self.replicas

    def _joined(self, ranks: Any) -> Any:
        """Create a group, as all ranks must, and return it if this rank is in it."""
        group = dist.new_group(ranks)
        return group if self.rank in ranks else None

    @property
    def experts(self) -> slice:
        """The experts of each layer that this rank holds."""
        return self.layout.experts(self.rank)

    def device(self) -> torch.device:
        """Return the device of the tensors of collective calls."""
        return collective_device(dist.get_backend())

    def __deepcopy__(self, memo: Dict[int, Any]) -> "ExpertGroups":
        return self  # process groups cannot be copied; fairseq's EMA copies the whole model


def collective_device(
    backend: str, current_gpu: Callable[[], int] = torch.cuda.current_device
) -> torch.device:
    """Return the device of the tensors of collective calls: with NCCL this process's GPU."""
    return torch.device("cuda", current_gpu()) if backend == "nccl" else torch.device("cpu")
