"""The bytes that a rank sends in a training step: rows to experts and back, and gradients."""

import math
from typing import List, NamedTuple, Sequence

import torch

from ..distributed.layout import ExpertLayout

COUNT_BYTES = 24  # to each rank for each layer: units, rows and the sum of rows, as int64
NUM_DRAWS = 100


class Exchange(NamedTuple):
    """The bytes that one rank sends for the MoE layers of one stack in one micro-batch."""

    rows: float  # tokens to experts and back, and the gradients of both
    facts: float  # experts and gates of a unit, and the number of rows that follow
    collectives: int  # calls of all-to-all

    @property
    def total(self) -> float:
        return self.rows + self.facts


def expected_remote_ranks(layout: ExpertLayout, top_k: int) -> float:
    """Return the expected number of other ranks of its group that a token is sent to.

    The token's K experts are any K of E with equal probability. A rank with E / P experts has none
    of them with probability C(E - E / P, K) / C(E, K). The minimum is 0, the maximum min(K, P - 1).
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
        num_tokens: real tokens of the rank's micro-batch in this stack
        num_units: the units of routing: tokens or sentences
        value_bytes: bytes of a value that is sent, 2 in half precision
        group_size: ranks that share a copy of the experts
        remote_ranks: mean number of other ranks that a token is sent to
        routed_ahead: whether all layers' routes are exchanged at once, as with task routing
        checkpointed: whether forward runs twice (--checkpoint-activations)

    A row is sent to each other rank that has an expert of its token, and a result is sent back. A
    rank sends its own rows and results for others, the same number on average. In backward the
    gradients are sent likewise. A unit's facts are 1 + 2 K numbers in float32, and so is their
    gradient.
    """
    if num_layers == 0 or group_size == 1:
        return Exchange(0.0, 0.0, 0)
    forwards = 2 if checkpointed else 1
    passes = forwards + 1
    rows = num_layers * passes * 2 * num_tokens * remote_ranks * embed_dim * value_bytes
    plans = 1 if routed_ahead else forwards  # routes that are computed ahead are not recomputed
    facts = num_layers * (plans + 1) * num_units * remote_ranks * (1 + 2 * top_k) * 4
    counts = num_layers * plans * (group_size - 1) * COUNT_BYTES
    exchanges_of_facts = (1 if routed_ahead else num_layers) * (2 * plans + 1)
    return Exchange(rows, facts + counts, num_layers * passes * 2 + exchanges_of_facts)


def all_reduce_bytes(num_bytes: float, num_ranks: int) -> float:
    """Return what each rank sends in a ring all-reduce of num_bytes."""
    return 2 * (num_ranks - 1) / num_ranks * num_bytes


def busiest_rank(layout: ExpertLayout, task_experts: Sequence[Sequence[int]]) -> float:
    """Return the rows that the busiest rank computes in an MoE layer, over the mean of the ranks.

    task_experts: the K experts of each task; all tasks have the same number of tokens.
    """
    rows = torch.zeros(layout.size)
    experts = torch.tensor(task_experts).flatten()
    rows.index_add_(0, experts // layout.experts_per_rank, torch.ones(experts.numel()))
    return float(rows.max() / rows.mean())


def busiest_rank_by_chance(layout: ExpertLayout, top_k: int, groups: Sequence[int]) -> float:
    """Return the mean of busiest_rank if each group of tasks has K random experts of E.

    groups: the group of each task. A balance loss distributes the groups better than chance, but
    cannot change the load of a group that has half of all tokens.
    """
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for _ in range(NUM_DRAWS):
        scores = torch.rand(max(groups) + 1, layout.num_experts, generator=generator)
        experts: List[List[int]] = scores.topk(top_k, dim=1).indices[list(groups)].tolist()
        total += busiest_rank(layout, experts)
    return total / NUM_DRAWS
