"""Routers without a gate: baselines for learned routing, and stored routes.

Shapes as in routers.py.
"""

import torch
import torch.nn as nn
from torch import Tensor

from .routers import RouterOutput, RoutingInputs

# The constants of splitmix64, as signed integers
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15
_GOLDEN = -0x61C8864680B583EB


class StaticRouter(nn.Module):
    """Each task has fixed experts and gates, given by a table.

    Task n has the experts K n, ..., K n + K - 1 (modulo E) with equal gates; nothing is learned.
    With from_checkpoint these are only initial values of a table that is stored in checkpoints:
    extraction writes into it the learned routes of the tasks of a sub-network.
    """

    task_experts: Tensor  # (N, K) int64
    task_gates: Tensor  # (N, K)

    def __init__(
        self, num_experts: int, top_k: int, task_groups: Tensor, from_checkpoint: bool = False
    ):
        super().__init__()
        first = task_groups.unsqueeze(1) * top_k
        experts = (first + torch.arange(top_k, device=first.device)) % num_experts
        gates = torch.full(experts.shape, 1 / top_k, device=first.device)
        # without from_checkpoint not saved: it follows from the task table
        self.register_buffer("task_experts", experts, persistent=from_checkpoint)
        self.register_buffer("task_gates", gates, persistent=from_checkpoint)
        self.num_experts = num_experts

    def forward(self, x: Tensor, inputs: RoutingInputs) -> RouterOutput:
        """Route x (B, S, C) by the tasks of its sentences."""
        task_ids = inputs.task_ids
        assert task_ids is not None, "the task puts task_ids into every batch"
        expert_ids, gates = self.task_experts[task_ids], self.task_gates[task_ids]
        return fixed_route(expert_ids.unsqueeze(1), gates.unsqueeze(1), self.num_experts, x)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return False


class RandomRouter(nn.Module):
    """Each sentence has K random experts.

    In training they are drawn for each batch. At evaluation they follow from a hash of the
    sentence's source tokens and the layer, so a translation depends neither on the other sentences
    of its batch nor on the run.
    """

    def __init__(self, num_experts: int, top_k: int, layer_seed: int):
        super().__init__()
        self.num_experts = num_experts
        self.top_k = top_k
        self.layer_seed = layer_seed

    def forward(self, x: Tensor, inputs: RoutingInputs) -> RouterOutput:
        """Route x (B, S, C) at random."""
        if self.training:
            scores = torch.rand(x.size(0), self.num_experts, device=x.device)
        else:
            experts = torch.arange(1, self.num_experts + 1, device=x.device)
            seeds = mix_bits(inputs.sentence_hashes.unsqueeze(1) + self.layer_seed)
            scores = mix_bits(seeds + experts * _GOLDEN)
        expert_ids = scores.topk(self.top_k, dim=-1).indices.unsqueeze(1)
        gates = torch.full(expert_ids.shape, 1 / self.top_k, device=x.device)
        return fixed_route(expert_ids, gates, self.num_experts, x)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return False


def fixed_route(expert_ids: Tensor, gates: Tensor, num_experts: int, x: Tensor) -> RouterOutput:
    """Return the RouterOutput that sends each row to expert_ids (B, 1, K) with gates (B, 1, K)."""
    shape = expert_ids.shape[:-1]
    probs = torch.zeros(*shape, num_experts, device=x.device)
    probs = probs.scatter(-1, expert_ids, gates.float())
    return RouterOutput(expert_ids, gates.type_as(x), probs, torch.zeros(shape, device=x.device))


def hash_sentences(tokens: Tensor, token_mask: Tensor) -> Tensor:
    """Return a hash (B,) of each sentence in tokens (B, S), independent of padding."""
    position = token_mask.long().cumsum(dim=1)
    mixed = mix_bits(tokens * _GOLDEN + position * _MIX_1)
    return (mixed * token_mask).sum(dim=1)


def mix_bits(x: Tensor) -> Tensor:
    """Scatter the bits of x (int64): splitmix64's finaliser, in arithmetic modulo 2^64."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch's >> on int64 copies the sign bit: mask the copies
    return (x >> bits) & ((1 << (64 - bits)) - 1)
