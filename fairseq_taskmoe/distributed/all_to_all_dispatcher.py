"""The dispatcher of experts that are spread over ranks.

A unit is what a router decides for: a token, or a whole sentence, which then moves as a block. A
unit goes once to each rank that holds at least one of its experts, however many it has there; that
rank weights and adds up what its experts say, and one row for each token comes back. Units whose
experts are here stay here.

Shapes: L layers, U units, K choices, P ranks of the expert group, B sentences, S positions, C model
width, M journeys (a unit to a rank). "Slots" are the ranks of the group in the order in which rows
are laid out: the others in order of rank, then this one.
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
from .exchange import ExchangeRows
from .expert_groups import ExpertGroups


class ExchangePlan(NamedTuple):
    """One layer's way over the ranks."""

    positions: Tensor  # (R,) rows of the flattened batch (B * S) to lay out, by slot
    send: List[int]  # P numbers of rows for each place; 0 for this one
    receive: List[int]
    travels: bool  # whether anybody in the group sends anything
    assignments: ExpertAssignments  # by received and own rows, of the experts here


class Journeys(NamedTuple):
    """Who goes where, for all layers; sorted by slot, layer and unit."""

    slots: Tensor  # (M,) int64
    layers: Tensor  # (M,) int64
    units: Tensor  # (M,) int64
    facts: Tensor  # (M, 1 + 2 K) float32: rows of the unit, K experts of that rank, K gates


class AllToAllDispatcher:
    """Exchanges rows between the ranks of an expert group; nothing is padded, nothing dropped."""

    def __init__(self, groups: ExpertGroups):
        self.groups = groups
        self.per_rank = groups.layout.experts_per_rank
        others = [place for place in range(groups.layout.size) if place != groups.place]
        self.place_of_slot = [*others, groups.place]

    def plan(self, routings: Sequence[RouterOutput], token_mask: Tensor) -> List[ExchangePlan]:
        """Return a plan for each of L layers that route the same batch, token_mask (B, S).

        Two exchanges, for all layers together: how much is to come, then the units' facts. Gates
        travel with the facts, and their gradients back.
        """
        num_layers, num_slots = len(routings), len(self.place_of_slot)
        per_token = routings[0].gates.size(1) == token_mask.size(1)
        lengths = token_mask.flatten().long() if per_token else token_mask.sum(dim=1)
        journeys = self._journeys(routings, lengths)
        leaving = self._counts(journeys, lengths, num_layers)
        arriving = torch.empty_like(leaving)
        dist.all_to_all_single(arriving, leaving, group=self.groups.group)
        # [leaving or arriving][place][layer][units, rows, rows that the sender sends in all]
        out, come = torch.stack([leaving, arriving]).tolist()

        wire_units = [[sum(layer[0] for layer in place) for place in way] for way in (out, come)]
        for numbers in wire_units:
            numbers[self.groups.place] = 0
        facts = journeys.facts
        if any(layer[2] for place in come for layer in place):
            facts = ExchangeRows.apply(facts, *wire_units, self.groups.group)
        here = [[layer[0] for layer in come[place]] for place in self.place_of_slot]
        layer_here = torch.arange(num_layers, device=facts.device).repeat(num_slots)
        layer_here = layer_here.repeat_interleave(torch.tensor(here, device=facts.device).flatten())

        starts, token_rows = lengths.cumsum(0) - lengths, token_mask.flatten().nonzero().squeeze(1)
        experts, gates, ways = [], [], []
        for layer, routing in enumerate(routings):
            leaving_units = journeys.units[journeys.layers == layer]
            positions = token_rows[_spans(starts[leaving_units], lengths[leaving_units])]
            ways.append((positions, *self._rows_by_place(out, come, layer)))
            own = GatherRows.apply(facts, (layer_here == layer).nonzero().squeeze(1))
            top_k = routing.gates.size(2)
            rows = own[:, 0].detach().long()
            unit_of_row = torch.arange(len(rows), device=rows.device).repeat_interleave(rows)
            experts.append(own[:, 1 : 1 + top_k].detach().long()[unit_of_row])
            gates.append(GatherRows.apply(own[:, 1 + top_k :], unit_of_row).type_as(routing.gates))
        assignments = sort_by_expert(experts, gates, [self.per_rank] * num_layers, leave_out=True)
        return [ExchangePlan(*way, own) for way, own in zip(ways, assignments, strict=True)]

    def dispatch(self, x: Tensor, plan: ExchangePlan) -> Tensor:
        """Return the rows that meet experts here: those received, then own ones."""
        rows = GatherRows.apply(x.flatten(0, 1), plan.positions)
        if plan.travels:
            rows = ExchangeRows.apply(rows, plan.send, plan.receive, self.groups.group)
        return rows

    def combine(self, rows: Tensor, plan: ExchangePlan, x: Tensor) -> Tensor:
        """Return rows to where they came from, and what all experts said to x (B, S, C)."""
        if plan.travels:
            rows = ExchangeRows.apply(rows, plan.receive, plan.send, self.groups.group)
        return AddRows.apply(rows, plan.positions, x.size(0) * x.size(1)).view_as(x)

    def wire_rows(self, plan: ExchangePlan) -> int:
        """Return how many rows this rank sends in one layer's forward pass, there and back."""
        return sum(plan.send) + sum(plan.receive)

    def fetch(self, weights: Tensor, expert_ids: Tensor) -> Tensor:
        """Return some experts' (K, ...) of a layer's stacked weights, wherever they are.

        weights (E / P, ...) are this rank's. A collective call, with the same expert_ids (K,) on
        all ranks of the group.
        """
        here = self.groups.experts
        chosen = weights.new_zeros(len(expert_ids), *weights.shape[1:])
        for row, expert in enumerate(expert_ids.tolist()):
            if here.start <= expert < here.stop:
                chosen[row] = weights[expert - here.start]
        dist.all_reduce(chosen, group=self.groups.group)
        return chosen

    def _journeys(self, routings: Sequence[RouterOutput], lengths: Tensor) -> Journeys:
        """Return who goes where; padding and dropped choices go nowhere."""
        experts = torch.stack([routing.expert_ids.flatten(0, 1) for routing in routings])
        gates = torch.stack([routing.gates.flatten(0, 1) for routing in routings])  # (L, U, K)
        num_places = self.groups.layout.size
        kept = (gates > 0) & (lengths > 0).view(1, -1, 1)
        places = (experts // self.per_rank).masked_fill(~kept, num_places)
        goes = torch.zeros(*gates.shape[:2], num_places + 1, dtype=torch.bool, device=gates.device)
        goes.scatter_(2, places, True)
        order = torch.tensor(self.place_of_slot, device=gates.device)
        slots, layers, units = goes[..., order].permute(2, 0, 1).nonzero().unbind(1)
        decisions = layers * gates.size(1) + units
        place = order[slots].unsqueeze(1)
        is_there = places.flatten(0, 1)[decisions] == place
        there = experts.flatten(0, 1)[decisions] - place * self.per_rank
        facts = [
            lengths[units].unsqueeze(1).float(),
            there.masked_fill(~is_there, self.per_rank).float(),
            GatherRows.apply(gates.flatten(0, 1), decisions).float(),
        ]
        return Journeys(slots, layers, units, torch.cat(facts, dim=1))

    def _counts(self, journeys: Journeys, lengths: Tensor, num_layers: int) -> Tensor:
        """Return (P, L, 3): units and rows for each place, and all rows that leave this rank."""
        num_slots = len(self.place_of_slot)
        cell = journeys.slots * num_layers + journeys.layers
        size = num_slots * num_layers
        units = torch.bincount(cell, minlength=size).view(num_slots, num_layers)
        rows = units.new_zeros(size).index_add_(0, cell, lengths[journeys.units])
        rows = rows.view(num_slots, num_layers)
        leaving = rows[:-1].sum(dim=0).expand_as(rows)
        place_order = torch.tensor(self.place_of_slot, device=cell.device).argsort()
        return torch.stack([units, rows, leaving], dim=2)[place_order].contiguous()

    def _rows_by_place(self, out: Any, come: Any, layer: int) -> Tuple[List[int], List[int], bool]:
        """Return the rows of a layer to send and to receive, and whether anybody sends any."""
        send, receive = ([place[layer][1] for place in way] for way in (out, come))
        send[self.groups.place] = receive[self.groups.place] = 0
        return send, receive, any(place[layer][2] for place in come)


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return start, start + 1, ... start + length - 1 of each span, one after the other."""
    offsets = starts - (lengths.cumsum(0) - lengths)
    shifts = offsets.repeat_interleave(lengths)
    return shifts + torch.arange(shifts.numel(), device=shifts.device)
