"""What a training step sends between ranks: rows to experts and back, and gradients.

Bytes are those that one rank sends; all ranks together receive as much.
"""

import math
from typing import List, NamedTuple, Sequence

import torch

from ..distributed.layout import ExpertLayout

COUNT_BYTES = 24  # to each rank and for each layer: units, rows and the sum of rows, as int64
NUM_DRAWS = 100


class Exchange(NamedTuple):
    """What one rank sends for the MoE layers of one stack in one micro-batch, in bytes."""

    rows: float  # tokens on their way to experts and back, and the gradients of both
    facts: float  # which experts and gates a unit has, and how much is to come
    collectives: int  # calls of all-to-all

    @property
    def total(self) -> float:
        return self.rows + self.facts


def expected_remote_ranks(layout: ExpertLayout, top_k: int) -> float:
    """Return how many other ranks of its group a token visits, whose K experts are any K of E.

    A rank with E / P experts holds none of K distinct ones with probability
    C(E - E / P, K) / C(E, K). At the least a token visits 0 other ranks, at the most min(K, P - 1).
    """
    num_experts, here = layout.num_experts, layout.experts_per_rank
    if num_experts == 0 or layout.size == 1:
        return 0.0
    none_there = math.comb(num_experts - here, top_k) / math.comb(num_experts, top_k)
    return (layout.size - 1) * (1 - none_there)


def exchange_bytes(
    num_layers: int,
    num_tokens: float,
    num_units: float,
    embed_dim: int,
    value_bytes: int,
    top_k: int,
    group_size: int,
    remote_ranks: float,
    routed_ahead: bool,
    checkpointed: bool = False,
) -> Exchange:
    """Return what one rank sends for num_layers MoE layers of one stack in one micro-batch.

    Args:
        num_tokens: real tokens of the rank's micro-batch on this stack's side
        num_units: what the router decides for: tokens, or sentences
        value_bytes: bytes of a value of a row on the wire, 2 in half precision
        group_size: ranks that share a copy of the experts
        remote_ranks: mean number of other ranks that a token visits
        routed_ahead: whether all layers' routes are exchanged together, as task routes are
        checkpointed: whether forward is run twice (--checkpoint-activations)

    A row travels to each other rank that has an expert of its token, and one comes back: the rank
    sends its own rows and returns others', the same number on average. Backward the gradients take
    the same ways. A unit's facts are 1 + 2 K numbers in float32, and so is their gradient.
    """
    if num_layers == 0 or group_size == 1:
        return Exchange(0.0, 0.0, 0)
    forwards = 2 if checkpointed else 1
    passes = forwards + 1
    rows = num_layers * passes * 2 * num_tokens * remote_ranks * embed_dim * value_bytes
    plans = 1 if routed_ahead else forwards  # routes that are known ahead are not recomputed
    facts = num_layers * (plans + 1) * num_units * remote_ranks * (1 + 2 * top_k) * 4
    counts = num_layers * plans * (group_size - 1) * COUNT_BYTES
    exchanges_of_facts = (1 if routed_ahead else num_layers) * (2 * plans + 1)
    return Exchange(rows, facts + counts, num_layers * passes * 2 + exchanges_of_facts)


def all_reduce_bytes(num_bytes: float, num_ranks: int) -> float:
    """Return what each rank sends in a ring all-reduce of num_bytes."""
    return 2 * (num_ranks - 1) / num_ranks * num_bytes


def busiest_rank(layout: ExpertLayout, task_experts: Sequence[Sequence[int]]) -> float:
    """Return the rows that the busiest rank computes in an MoE layer, over the mean of the ranks.

    task_experts names each task's K experts; all tasks have the same share of the tokens.
    """
    rows = torch.zeros(layout.size)
    experts = torch.tensor(task_experts).flatten()
    rows.index_add_(0, experts // layout.experts_per_rank, torch.ones(experts.numel()))
    return float(rows.max() / rows.mean())


def busiest_rank_by_chance(layout: ExpertLayout, top_k: int, groups: Sequence[int]) -> float:
    """Return the mean of busiest_rank where each group of tasks has K of E experts by chance.

    groups names the group of each task. A trained gate's balance loss spreads groups better than
    chance does; but a group with half of all tokens keeps its experts that busy.
    """
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for _ in range(NUM_DRAWS):
        scores = torch.rand(max(groups) + 1, layout.num_experts, generator=generator)
        experts: List[List[int]] = scores.topk(top_k, dim=1).indices[list(groups)].tolist()
        total += busiest_rank(layout, experts)
    return total / NUM_DRAWS
