"""Expert capacity: how many tokens an expert takes before it turns the rest away."""

import torch
from torch import Tensor


def within_capacity(
    expert_ids: Tensor, dispatched: Tensor, sizes: Tensor, num_experts: int, factor: float
) -> Tensor:
    """Return which choices (U, K) find room, for U units: tokens, or whole sentences.

    expert_ids (U, K) are the choices and dispatched (U, K) says which are made at all; sizes (U,)
    counts a unit's tokens (0 for padding). Each expert takes factor * tokens / num_experts tokens,
    rounded up: all first choices in the order of the batch, then all second ones (GShard algorithm
    1; Lingvo queues likewise). A choice that found no room keeps its place in the queue. Sorting
    keeps memory linear in U, where one-hot cumulative sums would take U x num_experts.
    """
    num_units, top_k = expert_ids.shape
    capacity = (sizes.sum().double() * factor / num_experts).ceil()
    experts = expert_ids.t().flatten()
    loads = sizes.repeat(top_k) * dispatched.t().flatten()
    order = experts.argsort(stable=True)
    filled = loads[order].cumsum(0)
    totals = torch.zeros(num_experts, dtype=loads.dtype, device=loads.device)
    totals.index_add_(0, experts, loads)
    before = totals.cumsum(0) - totals
    room = torch.empty_like(experts, dtype=torch.bool)
    room[order] = filled - before[experts[order]] <= capacity
    return room.view(top_k, num_units).t() & dispatched
