"""What ranks do in test_all_to_all_dispatcher.py: compare with a dispatcher that has all experts.

Every rank has its own sentences, and computes them twice: with its share of the experts, and with
all of them. Shapes: B sentences, S positions, C model width, E experts, K choices.
"""

import random
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from fairseq_taskmoe.distributed.all_to_all_dispatcher import AllToAllDispatcher
from fairseq_taskmoe.distributed.expert_groups import ExpertGroups
from fairseq_taskmoe.distributed.layout import expert_layout
from fairseq_taskmoe.distributed.lost_ranks import watch_ranks
from fairseq_taskmoe.modules.dispatchers import LocalDispatcher
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.moe_layer import MoELayer, route_ahead
from fairseq_taskmoe.modules.routers import (
    Router,
    RouterOptions,
    RouterOutput,
    RoutingInputs,
    SentenceRouter,
    TaskRouter,
    TokenRouter,
)

C, FFN, NUM_TASKS = 8, 12, 5
ROUTERS = ("token", "sentence", "source-means", "task")


class Case(NamedTuple):
    """What all ranks agree on."""

    seed: int
    router: str
    num_experts: int
    size: int  # ranks of a group
    options: RouterOptions
    num_layers: int
    dtype: torch.dtype
    idle: List[int]  # ranks without a token


def draw_case(seed: int, world_size: int) -> Case:
    draw = random.Random(seed)
    size = draw.choice([2, world_size])
    options = RouterOptions(
        top_k=draw.choice([1, 2, 3]),
        second_expert_policy=draw.choice(["all", "random"]),
        capacity_factor=draw.choice([0.0, 0.0, 0.7]),
    )
    num_experts = size * draw.choice([1, 2, 3]) if size > 2 else 6
    idle = draw.choice([[], [], [1], [0, 2], range(world_size)])
    router, dtype = ROUTERS[seed % len(ROUTERS)], draw.choice([torch.float32, torch.bfloat16])
    num_layers = draw.choice([1, 2, 3])
    if dtype == torch.bfloat16 and router in ("token", "sentence"):
        num_layers = 1  # a second one would route by what has been rounded
    return Case(seed, router, num_experts, size, options, num_layers, dtype, list(idle))


def make_layers(case: Case, groups: Any) -> nn.ModuleList:
    """Return layers with this rank's experts, or with all experts where there are no groups."""
    held = range(case.num_experts)[groups.experts] if groups else range(case.num_experts)
    layers = nn.ModuleList()
    torch.manual_seed(case.seed)
    for _ in range(case.num_layers):
        router: Router
        if case.router == "task":
            router = TaskRouter(C, case.num_experts, case.options, torch.arange(NUM_TASKS), 5)
        else:
            kind = TokenRouter if case.router == "token" else SentenceRouter
            router = kind(C, case.num_experts, case.options)
        nn.init.normal_(router.gate.weight)
        experts = Experts(len(held), C, FFN, "gelu", first_expert=held.start)
        dispatcher = AllToAllDispatcher(groups) if groups else LocalDispatcher()
        layers.append(MoELayer(router, experts, dispatcher))
    return layers.to(case.dtype)


def make_batch(case: Case, rank: int) -> Tuple[Tensor, RoutingInputs]:
    """Return a rank's own sentences: another number and other lengths on each."""
    torch.manual_seed(1000 * case.seed + rank)
    batch, length = int(torch.randint(1, 5, ())), int(torch.randint(1, 8, ()))
    x = torch.randn(batch, length, C, dtype=case.dtype)
    token_mask = torch.rand(batch, length) < 0.7
    if rank in case.idle:
        token_mask[:] = False
    means = None
    if case.router == "source-means":
        means = torch.randn(batch, C, dtype=case.dtype).requires_grad_()
    task_ids = torch.randint(NUM_TASKS, (batch,))
    return x.requires_grad_(), RoutingInputs(task_ids, token_mask, task_ids, means)


def outputs_and_gradients(
    layers: nn.ModuleList, x: Tensor, inputs: RoutingInputs
) -> Tuple[Dict[str, Tensor], int]:
    """Run layers with residual connections, forward and backward; return bytes sent as well."""
    torch.manual_seed(0)  # of the policy `random`
    wire_bytes, hidden = 0, x
    routes = route_ahead([SimpleNamespace(moe=layer) for layer in layers], x, inputs)
    for layer, route in zip(layers, routes, strict=True):
        output, stats = layer(hidden, inputs, route)
        wire_bytes += int(stats.wire_bytes)
        hidden = hidden + output
    (hidden.float().sin() * torch.arange(1.0, C + 1)).sum().backward()
    found = {"output": hidden.detach(), "input": x.grad}
    if inputs.source_means is not None:
        found["source means"] = inputs.source_means.grad
    for name, parameter in layers.named_parameters():
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found, wire_bytes


def units_abroad(layers: nn.ModuleList, x: Tensor, inputs: RoutingInputs, groups: Any) -> int:
    """Return the rows that must go to other ranks: one for each token and other rank, one by one.

    Of layers that route without looking at their own input.
    """
    torch.manual_seed(0)
    rows = 0
    for routing in [layer.router(x, inputs) for layer in layers]:
        for sentence, mask in enumerate(inputs.token_mask.tolist()):
            for position, is_token in enumerate(mask):
                unit = sentence, min(position, routing.gates.size(1) - 1)
                chosen = zip(routing.expert_ids[unit], routing.gates[unit], strict=True)
                places = {int(expert) // groups.layout.experts_per_rank
                          for expert, gate in chosen if gate > 0}
                rows += len(places - {groups.place}) if is_token else 0
    return rows


def compare(case: Case) -> None:
    """Compare a case on this rank; a collective call."""
    groups = ExpertGroups(expert_layout(case.num_experts, dist.get_world_size(), case.size))
    whole, spread = make_layers(case, None), make_layers(case, groups)
    expected, nothing = outputs_and_gradients(whole, *make_batch(case, dist.get_rank()))
    x, inputs = make_batch(case, dist.get_rank())
    found, wire_bytes = outputs_and_gradients(spread, x, inputs)
    assert nothing == 0
    tolerance = 1e-5 if case.dtype == torch.float32 else 0.02
    for name, value in expected.items():
        if ".experts." in name:
            # the gradient of this rank's experts is of what all ranks of the group have computed
            total = value.float()
            dist.all_reduce(total, group=groups.group)
            value = total[groups.experts]
        scale, error = (float(x.float().norm()) for x in (value, found[name] - value))
        assert error <= tolerance * scale + 1e-6, f"{case}: {name} differs by {error} of {scale}"
    if case.router in ("task", "source-means"):
        rows = torch.tensor([units_abroad(spread, x, inputs, groups), wire_bytes])
        dist.all_reduce(rows, group=groups.group)
        # there and back, in the type that is computed in
        assert rows[1] == 2 * rows[0] * C * x.element_size(), case
        if len(case.idle) == dist.get_world_size():
            assert rows[1] == 0


class StaysHome(nn.Module):
    """A router that chooses two of the experts of a rank."""

    def __init__(self, first: int):
        super().__init__()
        self.first = first

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return False

    def forward(self, x: Tensor, inputs: RoutingInputs) -> RouterOutput:
        shape = (x.size(0), x.size(1), 1)
        ids = torch.tensor([self.first, self.first + 1]).expand(*shape[:2], 2)
        return RouterOutput(
            ids, torch.full_like(ids, 0.5, dtype=x.dtype), torch.full((*shape[:2], 8), 0.125),
            torch.zeros(shape[:2]),
        )


def nobody_sends() -> None:
    """Rows whose experts are here are computed without an exchange of rows."""
    case = Case(1, "token", 8, dist.get_world_size(), RouterOptions(), 2, torch.float32, [])
    groups = ExpertGroups(expert_layout(8, dist.get_world_size()))
    whole, spread = make_layers(case, None), make_layers(case, groups)
    for layer in (*whole, *spread):
        layer.router = StaysHome(groups.experts.start)
    expected, _ = outputs_and_gradients(whole, *make_batch(case, dist.get_rank()))
    exchange, sizes = dist.all_to_all_single, []
    dist.all_to_all_single = lambda out, *args, **kwargs: (
        sizes.append(out.shape), exchange(out, *args, **kwargs)
    )
    found, wire_bytes = outputs_and_gradients(spread, *make_batch(case, dist.get_rank()))
    dist.all_to_all_single = exchange
    torch.testing.assert_close(found["output"], expected["output"])
    torch.testing.assert_close(found["input"], expected["input"])
    assert wire_bytes == 0 and sizes == [(4, 2, 3)]  # the counts of two layers, and nothing else


def main(seeds: range) -> None:
    dist.init_process_group("gloo")
    watch_ranks()  # an error of one rank ends the others
    for seed in seeds:
        compare(draw_case(seed, dist.get_world_size()))
    nobody_sends()
