"""Translating on several ranks, each with its own sentences, with expert parallelism.

If a layer exchanges rows between ranks, all ranks must run each step of the search together. A rank
that has finished takes part with a batch of padding, which is never routed.
"""

from functools import partial
from typing import Any, Dict, List, Optional, TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from ..devices import backend_of, device_of_rank, make_current
from ..distributed.agreement import num_ranks, rank
from ..distributed.all_to_all_dispatcher import AllToAllDispatcher
from ..distributed.launch import check_launch, from_environment
from ..modules.moe_layer import MoELayer
from .folded_model import shallow_copy
from .transformer_task_moe import TransformerTaskMoeModel

Hypothesis = TypeVar("Hypothesis")


def join_ranks(cpu: bool) -> None:
    """Create the process group of the processes that a launcher started, if any.

    Each process uses the GPU with its local rank.
    """
    launcher = from_environment()
    if launcher is None or dist.is_initialized():
        check_launch(num_ranks())
        return
    device = device_of_rank(cpu, launcher.local_rank, torch.cuda.device_count())
    make_current(device)
    dist.init_process_group(backend_of(device))


def exchanges_rows(stack: nn.Module) -> bool:
    """Return whether a stack of a model has a layer with experts on other ranks."""
    moes = [module for module in stack.modules() if isinstance(module, MoELayer)]
    return any(isinstance(moe.dispatcher, AllToAllDispatcher) for moe in moes)


class LockstepDecoder:
    """Synchronises the steps of the ranks' searches; all ranks need as many batches."""

    def __init__(self, model: TransformerTaskMoeModel):
        self.original = model
        self.in_encoder = exchanges_rows(model.encoder)
        self.in_decoder = exchanges_rows(model.decoder)
        self.model = shallow_copy(model)
        if self.in_decoder:
            decoder: Any = shallow_copy(model.decoder)
            decoder.forward = partial(self._step, model.decoder)
            self.model._modules["decoder"] = decoder

    def finish_batch(self, had_one: bool) -> None:
        """Take part until all ranks have finished their batches; had_one: this rank had a batch."""
        values = next(self.original.parameters())
        padding = values.new_full((1, 1), self.original.encoder.padding_idx, dtype=torch.long)
        with torch.no_grad():
            if self.in_encoder and not had_one:
                self.original.encoder(padding, task_ids=torch.zeros_like(padding[0]))
            while self.in_decoder and self._any_rank_steps(False):
                empty = self._empty_encoder_out(values)
                self.original.decoder(padding, empty, incremental_state={})

    def _step(self, decoder: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run a step of this rank's search."""
        self._any_rank_steps(True)
        return decoder(*args, **kwargs)

    def _any_rank_steps(self, this_rank: bool) -> bool:
        steps = torch.tensor(float(this_rank), device=next(self.original.parameters()).device)
        dist.all_reduce(steps)
        return bool(steps > 0)

    def _empty_encoder_out(self, like: Tensor) -> Dict[str, List[Any]]:
        """Return an encoder output for a sentence of padding, without running the encoder."""
        zeros = like.new_zeros(1, self.original.encoder.embed_tokens.embedding_dim)
        task_ids = torch.zeros(1, dtype=torch.long, device=like.device)
        return {
            "encoder_out": [zeros.unsqueeze(0)],
            "encoder_padding_mask": [torch.ones_like(task_ids, dtype=torch.bool).unsqueeze(0)],
            "task_ids": [task_ids],
            "sentence_hashes": [task_ids],
            "source_means": [zeros],
            "task_tokens": [],
        }


def gather_hypotheses(own: Dict[int, Hypothesis]) -> Optional[Dict[int, Hypothesis]]:
    """Return all ranks' hypotheses on rank 0, None elsewhere: a collective call."""
    if not dist.is_initialized():
        return own
    parts: Optional[List[Any]] = [None] * num_ranks() if rank() == 0 else None
    dist.gather_object(own, parts)
    if parts is None:
        return None
    return {index: each for part in parts for index, each in part.items()}
