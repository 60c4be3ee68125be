"""The dispatcher for expert parallelism.

A unit is what a router decides for: a token, or a whole sentence, whose tokens are sent together. A
unit is sent once to each rank that holds at least one of its experts. That rank computes the
weighted sum of the outputs of its experts, and returns one row for each token. Units whose experts
are on this rank are not sent.

Shapes: L layers, U units, K choices, P ranks of the expert-parallel group, B sentences, S
positions, C model width, M transfers (of a unit to a rank). A "place" is a rank's position in the
group. "Slots" are the places in the order in which rows are laid out: the other ranks by place,
then this rank.
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..modules.expert_assignments import (
    AddRows,
    ExpertAssignments,
    GatherRows,
    sort_by_expert,
)
from ..modules.routers import RouterOutput
from .expert_groups import ExpertGroups


class ExchangePlan(NamedTuple):
    """One layer's exchange of rows."""

    positions: Tensor  # (R,) indices into the flattened batch (B * S), ordered by slot
    send: List[int]  # (P,) numbers of rows to send to each place; 0 for this one
    receive: List[int]  # (P,)
    has_exchange: bool  # whether any rank of the group sends anything
    assignments: ExpertAssignments  # of received and own rows to the experts of this rank


class Transfers(NamedTuple):
    """The units for each rank, for all layers, sorted by slot, layer and unit."""

    slots: Tensor  # (M,) int64
    layers: Tensor  # (M,) int64
    units: Tensor  # (M,) int64
    metadata: Tensor  # (M, 1 + 2 K) float32: rows of the unit, K experts of that rank, K gates


class AllToAllDispatcher:
    """Exchanges rows between the ranks of an expert-parallel group, without padding or drops."""

    def __init__(self, groups: ExpertGroups):
        self.groups = groups
        self.per_rank = groups.layout.experts_per_rank
        others = [place for place in range(groups.layout.size) if place != groups.place]
        self.place_of_slot = [*others, groups.place]

    def plan(self, routings: Sequence[RouterOutput], token_mask: Tensor) -> List[ExchangePlan]:
        """Return a plan for each of L layers that route the same batch, token_mask (B, S).

        This takes two exchanges for all layers together: of counts, then of the units' metadata,
        which include the gates. The backward pass returns the gradients of the gates.
        """
        num_layers, num_slots = len(routings), len(self.place_of_slot)
        per_token = routings[0].gates.size(1) == token_mask.size(1)
        lengths = token_mask.flatten().long() if per_token else token_mask.sum(dim=1)
        transfers = self._transfers(routings, lengths)
        sent = self._counts(transfers, lengths, num_layers)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.groups.group)
        # [place][layer][units, rows, all rows that the sender sends]
        sent_counts, received_counts = torch.stack([sent, received]).tolist()

        wire_units = [
            [sum(layer[0] for layer in place) for place in counts]
            for counts in (sent_counts, received_counts)
        ]
        for numbers in wire_units:
            numbers[self.groups.place] = 0
        metadata = transfers.metadata
        if any(layer[2] for place in received_counts for layer in place):
            metadata = ExchangeRows.apply(metadata, *wire_units, self.groups.group)
        num_units = [[layer[0] for layer in received_counts[place]] for place in self.place_of_slot]
        layer_of_unit = torch.arange(num_layers, device=metadata.device).repeat(num_slots)
        layer_of_unit = layer_of_unit.repeat_interleave(
            torch.tensor(num_units, device=metadata.device).flatten()
        )

        starts, token_rows = lengths.cumsum(0) - lengths, token_mask.flatten().nonzero().squeeze(1)
        experts, gates, exchanges = [], [], []
        for layer, routing in enumerate(routings):
            units = transfers.units[transfers.layers == layer]
            positions = token_rows[_spans(starts[units], lengths[units])]
            exchanges.append(
                (positions, *self._rows_by_place(sent_counts, received_counts, layer))
            )
            own = GatherRows.apply(metadata, (layer_of_unit == layer).nonzero().squeeze(1))
            top_k = routing.gates.size(2)
            rows = own[:, 0].detach().long()
            unit_of_row = torch.arange(len(rows), device=rows.device).repeat_interleave(rows)
            experts.append(own[:, 1 : 1 + top_k].detach().long()[unit_of_row])
            gates.append(GatherRows.apply(own[:, 1 + top_k :], unit_of_row).type_as(routing.gates))
        assignments = sort_by_expert(experts, gates, [self.per_rank] * num_layers, leave_out=True)
        return [ExchangePlan(*each, own) for each, own in zip(exchanges, assignments, strict=True)]

    def dispatch(self, x: Tensor, plan: ExchangePlan) -> Tensor:
        """Return the rows for the experts of this rank: received rows, then own ones."""
        rows = GatherRows.apply(x.flatten(0, 1), plan.positions)
        if plan.has_exchange:
            rows = ExchangeRows.apply(rows, plan.send, plan.receive, self.groups.group)
        return rows

    def combine(self, rows: Tensor, plan: ExchangePlan, x: Tensor) -> Tensor:
        """Send rows back, and return the sums over all experts in the shape of x (B, S, C)."""
        if plan.has_exchange:
            rows = ExchangeRows.apply(rows, plan.receive, plan.send, self.groups.group)
        return AddRows.apply(rows, plan.positions, x.size(0) * x.size(1)).view_as(x)

    def wire_rows(self, plan: ExchangePlan) -> int:
        """Return the number of rows that this rank sends in one layer's forward pass."""
        return sum(plan.send) + sum(plan.receive)

    def fetch(self, weights: Tensor, expert_ids: Tensor) -> Tensor:
        """Return the weights (K, ...) of some experts of any rank of the group.

        weights (E / P, ...) are this rank's stacked weights. A collective call, with the same
        expert_ids (K,) on all ranks of the group.
        """
        here = self.groups.experts
        chosen = weights.new_zeros(len(expert_ids), *weights.shape[1:])
        for row, expert in enumerate(expert_ids.tolist()):
            if here.start <= expert < here.stop:
                chosen[row] = weights[expert - here.start]
        dist.all_reduce(chosen, group=self.groups.group)
        return chosen

    def _transfers(self, routings: Sequence[RouterOutput], lengths: Tensor) -> Transfers:
        """Return the units for each rank, without padding and dropped choices."""
        experts = torch.stack([routing.expert_ids.flatten(0, 1) for routing in routings])
        gates = torch.stack([routing.gates.flatten(0, 1) for routing in routings])  # (L, U, K)
        num_places = self.groups.layout.size
        kept = (gates > 0) & (lengths > 0).view(1, -1, 1)
        places = (experts // self.per_rank).masked_fill(~kept, num_places)
        has_expert = torch.zeros(
            *gates.shape[:2], num_places + 1, dtype=torch.bool, device=gates.device
        )
        has_expert.scatter_(2, places, True)
        order = torch.tensor(self.place_of_slot, device=gates.device)
        slots, layers, units = has_expert[..., order].permute(2, 0, 1).nonzero().unbind(1)
        decisions = layers * gates.size(1) + units
        place = order[slots].unsqueeze(1)
        is_there = places.flatten(0, 1)[decisions] == place
        local_ids = experts.flatten(0, 1)[decisions] - place * self.per_rank
        metadata = [
            lengths[units].unsqueeze(1).float(),
            local_ids.masked_fill(~is_there, self.per_rank).float(),
            GatherRows.apply(gates.flatten(0, 1), decisions).float(),
        ]
        return Transfers(slots, layers, units, torch.cat(metadata, dim=1))

    def _counts(self, transfers: Transfers, lengths: Tensor, num_layers: int) -> Tensor:
        """Return (P, L, 3): units and rows for each place, and all rows that this rank sends."""
        num_slots = len(self.place_of_slot)
        cell = transfers.slots * num_layers + transfers.layers
        size = num_slots * num_layers
        units = torch.bincount(cell, minlength=size).view(num_slots, num_layers)
        rows = units.new_zeros(size).index_add_(0, cell, lengths[transfers.units])
        rows = rows.view(num_slots, num_layers)
        all_sent = rows[:-1].sum(dim=0).expand_as(rows)
        place_order = torch.tensor(self.place_of_slot, device=cell.device).argsort()
        return torch.stack([units, rows, all_sent], dim=2)[place_order].contiguous()

    def _rows_by_place(
        self, sent: Any, received: Any, layer: int
    ) -> Tuple[List[int], List[int], bool]:
        """Return the rows of a layer to send and to receive, and whether any rank sends any."""
        send, receive = ([place[layer][1] for place in counts] for counts in (sent, received))
        send[self.groups.place] = receive[self.groups.place] = 0
        return send, receive, any(place[layer][2] for place in received)


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the concatenation of start, start + 1, ... start + length - 1 of each span."""
    offsets = starts - (lengths.cumsum(0) - lengths)
    shifts = offsets.repeat_interleave(lengths)
    return shifts + torch.arange(shifts.numel(), device=shifts.device)


class ExchangeRows(torch.autograd.Function):
    """Send rows to the other ranks of a group and receive theirs.

    forward(rows (R, C), send, receive, group): rows are those for the other ranks by place, send[p]
    for place p, then those that stay on this rank. Returns the received rows, receive[p] from place
    p, then those that stayed. Numbers may be 0. The backward pass sends gradients back. A
    collective call.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: List[int], receive: List[int], group: Any) -> Tensor:
        ctx.sizes = (send, receive, group)
        return _exchange(rows, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None]:
        send, receive, group = ctx.sizes
        return _exchange(grad.contiguous(), receive, send, group), None, None, None


def _exchange(rows: Tensor, send: List[int], receive: List[int], group: Any) -> Tensor:
    num_sent, num_received = sum(send), sum(receive)
    num_staying = rows.size(0) - num_sent
    out = rows.new_empty(num_received + num_staying, rows.size(1))
    dist.all_to_all_single(out[:num_received], rows[:num_sent], receive, send, group=group)
    out[num_received:] = rows[num_sent:]
    return out
