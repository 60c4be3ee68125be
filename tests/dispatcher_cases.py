"""Cases of MoE layers, compared with a slow reference: outputs and gradients.

The reference sends each token to each of its experts, one by one, in float64. Cases run here with
all experts, and on several ranks that hold a share of the experts each: every rank has its own
sentences. Shapes: B sentences, S positions, C model width, E experts,
K choices.
"""

import random
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, NamedTuple, Optional
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor

from fairseq_taskmoe.distributed.all_to_all_dispatcher import AllToAllDispatcher
from fairseq_taskmoe.distributed.expert_groups import ExpertGroups
from fairseq_taskmoe.distributed.layout import expert_layout
from fairseq_taskmoe.modules.dispatchers import LocalDispatcher
from fairseq_taskmoe.modules.expert_execution import Execution
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.label_smoothed_loss import label_smoothed_nll
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

C, FFN, NUM_TASKS, PAD = 8, 16, 5, 0
ROUTERS = ("token", "sentence", "source-means", "task")
POLICIES = ("all", "random", "sampling")
# of the norm of a tensor: eight roundings of 2^-8, 2^-11; sums of at most some hundred in float32
TOLERANCES = {torch.bfloat16: 0.03, torch.float16: 0.004, torch.float32: 2e-5}


class Case(NamedTuple):
    """What all ranks agree on."""

    seed: int
    router: str
    num_experts: int
    size: int  # ranks of a group; 1 with all experts here
    options: RouterOptions
    num_layers: int
    dtype: torch.dtype
    idle: List[int]  # ranks without a token
    execution: Execution
    sharpness: float  # of the gates' weights: later gates are 0 in float16 where it is large
    scale: float  # of the logits: predictions are certain where it is large
    label_smoothing: float


def draw_case(seed: int, world_size: int) -> Case:
    draw = random.Random(seed)
    size = draw.choice([2, world_size]) if world_size > 1 else 1
    if size == 1:
        num_experts = draw.choice([1, 2, 4, 7])
    else:
        num_experts = size * draw.choice([1, 2, 3]) if size > 2 else 6
    options = RouterOptions(
        top_k=min(num_experts, draw.choice([1, 2, 3])),
        second_expert_policy=draw.choice(POLICIES),
        capacity_factor=draw.choice([0.0, 0.0, 0.7]),
    )
    idle = draw.choice([[], [], [1], [0, 2], range(world_size)])
    dtype = draw.choice(list(TOLERANCES))
    router, num_layers = ROUTERS[seed % len(ROUTERS)], draw.choice([1, 2, 3])
    if dtype != torch.float32 and router in ("token", "sentence"):
        num_layers = 1  # a second one would route by what has been rounded
    return Case(
        seed, router, num_experts, size, options, num_layers, dtype, list(idle),
        draw.choice(list(Execution)), draw.choice([1.0, 1.0, 30.0]), draw.choice([1.0, 8.0]),
        draw.choice([0.0, 0.1]),
    )


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
        nn.init.normal_(router.gate.weight, std=case.sharpness)
        experts = Experts(
            len(held), C, FFN, "gelu", first_expert=held.start, execution=case.execution
        )
        dispatcher = AllToAllDispatcher(groups) if groups else LocalDispatcher()
        layers.append(MoELayer(router, experts, dispatcher))
    return layers.to(case.dtype)


class Batch(NamedTuple):
    """A rank's own sentences."""

    x: Tensor  # (B, S, C)
    inputs: RoutingInputs


def make_batch(case: Case, rank: int) -> Batch:
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
    return Batch(x.requires_grad_(), RoutingInputs(task_ids, token_mask, task_ids, means))


class Found(NamedTuple):
    """What a computation gave."""

    output: Tensor  # (B, S, C)
    gradients: Dict[str, Tensor]
    wire_bytes: int


def compute(layers: nn.ModuleList, case: Case, batch: Batch) -> Found:
    """Run layers with residual connections and a loss, forward and backward."""
    torch.manual_seed(0)  # of the policies
    wire_bytes, hidden = 0, batch.x
    routes = route_ahead([SimpleNamespace(moe=layer) for layer in layers], hidden, batch.inputs)
    for layer, route in zip(layers, routes, strict=True):
        output, stats = layer(hidden, batch.inputs, route)
        wire_bytes += int(stats.wire_bytes)
        hidden = hidden + output
    logits = logits_of(case, hidden)
    loss, _ = label_smoothed_nll(
        logits, target_of(logits, batch), case.label_smoothing, PAD
    )
    (loss * torch.linspace(1, 2, loss.numel())).sum().backward()
    return Found(hidden.detach(), gradients_of(layers, batch), wire_bytes)


def logits_of(case: Case, output: Tensor) -> Tensor:
    """Return logits (B * S, C + 1) of an output (B, S, C), small ones of the word PAD."""
    return F.pad((case.scale * output).flatten(0, 1), (1, 0), value=-10.0)


def target_of(logits: Tensor, batch: Batch) -> Tensor:
    """Return the words that are predicted: the gradient is small where that is certain."""
    return logits.argmax(dim=1).masked_fill(~batch.inputs.token_mask.flatten(), PAD)


def gradients_of(layers: nn.ModuleList, batch: Batch) -> Dict[str, Tensor]:
    inputs = {"input": batch.x}
    if batch.inputs.source_means is not None:
        inputs["source means"] = batch.inputs.source_means
    leaves = {**inputs, **dict(layers.named_parameters())}
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }


def compute_slowly(layers: nn.ModuleList, case: Case, batch: Batch, output: Tensor) -> Found:
    """Do what compute does, without dispatchers, one token and expert after the other, in float64.

    The loss and its gradient are those of logits that the output was rounded to.
    """
    torch.manual_seed(0)
    x, inputs = batch.x, batch.inputs
    ahead = {
        number: layer.router(x, inputs)
        for number, layer in enumerate(layers) if not layer.router.reads_input(inputs)
    }
    hidden = x.double()
    for number, layer in enumerate(layers):
        routing = ahead.get(number) or layer.router(hidden.to(case.dtype), inputs)
        hidden = hidden + loop(layer, routing, hidden, inputs.token_mask)
    computed = hidden + (output.double() - hidden).detach()
    logits = logits_of(case, computed)
    target = target_of(logits_of(case, output), batch)
    loss, _ = label_smoothed_nll_loss(
        logits.log_softmax(dim=1), target.unsqueeze(1), case.label_smoothing, ignore_index=PAD,
        reduce=False,
    )
    loss = loss.squeeze(1)
    (loss * torch.linspace(1, 2, loss.numel())).sum().backward()
    return Found(hidden.detach(), gradients_of(layers, batch), 0)


def loop(layer: MoELayer, routing: RouterOutput, x: Tensor, token_mask: Tensor) -> Tensor:
    """Return the outputs of each token's experts, weighted and added up, for x (B, S, C)."""
    weights = {name: weight.double() for name, weight in layer.experts.named_parameters()}
    rows = [torch.zeros(C, dtype=x.dtype)] * x[..., 0].numel()
    for b, s in token_mask.nonzero().tolist():
        unit = b, min(s, routing.gates.size(1) - 1)
        for expert, gate in zip(routing.expert_ids[unit], routing.gates[unit], strict=True):
            if gate > 0:
                hidden = F.linear(
                    x[b, s], weights["fc1.weight"][expert], weights["fc1.bias"][expert, 0]
                )
                hidden = layer.experts.activation_fn(hidden)
                out = F.linear(
                    hidden, weights["fc2.weight"][expert], weights["fc2.bias"][expert, 0]
                )
                rows[b * x.size(1) + s] = rows[b * x.size(1) + s] + gate.double() * out
    return torch.stack(rows).view_as(x)


def units_abroad(layers: nn.ModuleList, batch: Batch, groups: Any) -> int:
    """Return the rows that must go to other ranks: one for each token and other rank, one by one.

    Of layers that route without looking at their own input.
    """
    torch.manual_seed(0)
    rows = 0
    for routing in [layer.router(batch.x, batch.inputs) for layer in layers]:
        for sentence, mask in enumerate(batch.inputs.token_mask.tolist()):
            for position, is_token in enumerate(mask):
                unit = sentence, min(position, routing.gates.size(1) - 1)
                chosen = zip(routing.expert_ids[unit], routing.gates[unit], strict=True)
                places = {int(expert) // groups.layout.experts_per_rank
                          for expert, gate in chosen if gate > 0}
                rows += len(places - {groups.place}) if is_token else 0
    return rows


def compare(case: Case, groups: Optional[ExpertGroups] = None) -> None:
    """Compare a case with the reference: with all experts here, or on this rank of groups.

    The latter is a collective call.
    """
    rank = groups.rank if groups else 0
    batch = make_batch(case, rank)
    layers = make_layers(case, groups)
    found = compute(layers, case, batch)
    expected = compute_slowly(
        make_layers(case, None), case, make_batch(case, rank), found.output
    )
    assert_close(case, "output", found.output, expected.output, 0.1)
    norms = torch.stack([value.double().norm() for value in expected.gradients.values()])
    slack = 0.1 * float(norms.norm()) + 1e-3
    for name, value in expected.gradients.items():
        if groups and ".experts." in name:
            # the gradient of this rank's experts is of what all ranks of the group have computed
            total = value.float()
            dist.all_reduce(total, group=groups.group)
            value = total[groups.experts]
        assert_close(case, name, found.gradients[name], value, slack)
    if groups and case.router in ("task", "source-means"):
        rows = torch.tensor([units_abroad(layers, batch, groups), found.wire_bytes])
        dist.all_reduce(rows, group=groups.group)
        # there and back, in the type that is computed in
        assert rows[1] == 2 * rows[0] * C * batch.x.element_size(), case
        if len(case.idle) == dist.get_world_size():
            assert rows[1] == 0
    elif not groups:
        assert found.wire_bytes == 0


def assert_close(
    case: Case, name: str, found: Tensor, expected: Tensor, slack: float
) -> None:
    """Compare by the norm of the difference; slack is for sums of numbers that cancel out."""
    norm, error = (float(x.double().norm()) for x in (expected, found.double() - expected))
    tolerance = TOLERANCES[case.dtype]
    assert error <= tolerance * (norm + slack), f"{case}: {name} of norm {norm} is off by {error}"


@contextmanager
def garbage_of_empty_groups() -> Iterator[None]:
    """Let grouped_mm leave anything in weight gradients of groups without rows.

    As it does on GPUs of compute capability 10 (PyTorch issue 172439).
    """
    grouped_mm = F.grouped_mm

    def leaving_garbage(left: Tensor, right: Tensor, *, offs: Tensor) -> Tensor:
        out = grouped_mm(left, right, offs=offs)
        if right.dim() == 2:
            out[offs.diff(prepend=offs.new_zeros(1)) == 0] = float("nan")
        return out

    with patch.object(F, "grouped_mm", leaving_garbage):
        yield


class OwnExperts(nn.Module):
    """A router that chooses two experts of one rank."""

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


def no_rank_sends() -> None:
    """Rows whose experts are here are computed without an exchange of rows."""
    case = draw_case(0, 1)._replace(
        router="token", num_experts=8, options=RouterOptions(), num_layers=2, dtype=torch.float32
    )
    groups = ExpertGroups(expert_layout(8, dist.get_world_size()))
    whole, spread = make_layers(case, None), make_layers(case, groups)
    for layer in (*whole, *spread):
        layer.router = OwnExperts(groups.experts.start)
    expected = compute(whole, case, make_batch(case, dist.get_rank()))
    exchange, sizes = dist.all_to_all_single, []
    dist.all_to_all_single = lambda out, *args, **kwargs: (
        sizes.append(out.shape), exchange(out, *args, **kwargs)
    )
    found = compute(spread, case, make_batch(case, dist.get_rank()))
    dist.all_to_all_single = exchange
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.gradients["input"], expected.gradients["input"])
    assert found.wire_bytes == 0 and sizes == [(4, 2, 3)]  # the counts of two layers alone


def main(seeds: range) -> None:
    dist.init_process_group("gloo")
    world_size = dist.get_world_size()
    for seed in seeds:
        case = draw_case(seed, world_size)
        groups = ExpertGroups(expert_layout(case.num_experts, world_size, case.size))
        with garbage_of_empty_groups():
            compare(case, groups)
    no_rank_sends()
