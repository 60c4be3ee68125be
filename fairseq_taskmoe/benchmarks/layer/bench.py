"""One MoE layer, forward and backward, against dense networks and other libraries' MoE layers.

`dense` is a feed-forward network as wide as the K experts that a token visits: the same
computation. Peers do what they do: `flops` says of each variant how much that is.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ...modules.experts import Experts
from ...modules.moe_layer import MoELayer, route_ahead
from ...modules.routers import (
    RouterOptions,
    RoutingInputs,
    SentenceRouter,
    TaskRouter,
    TokenRouter,
)
from ..flops import flops
from ..measure import Phased, Timing, alternate_phases, describe
from ..memory import measured_weights, peak_bytes
from ..memory_limit import attempt, limited_memory
from .peers import PEERS

REFERENCE = "dense"
OWN = ("token", "sentence", "task")
VARIANTS = (REFERENCE, *OWN, *PEERS)


class Shape(NamedTuple):
    """What is computed."""

    num_experts: int = 32
    embed_dim: int = 512
    ffn_dim: int = 2048
    top_k: int = 2
    tokens: int = 4096
    length: int = 32  # tokens of a sentence
    num_tasks: int = 8
    dtype: str = "float32"


class Variant(NamedTuple):
    """A layer to measure."""

    label: str
    name: str  # of VARIANTS
    num_experts: int


class Case(NamedTuple):
    """A variant that is ready to run."""

    step: Callable[[], None]  # forward and backward
    parameters: List[nn.Parameter]

    def release(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def list_variants(names: Sequence[str], expert_counts: Sequence[int]) -> List[Variant]:
    """Return the variants with each number of experts, and the dense network once."""
    if len(expert_counts) == 1:
        return [Variant(name, name, expert_counts[0]) for name in names]
    return [
        Variant(name if name == REFERENCE else f"{name}@{count}", name, count)
        for name in names
        for count in (expert_counts[:1] if name == REFERENCE else expert_counts)
    ]


def bench_layer(
    variants: Sequence[Variant], shape: Shape, repeats: int, device: str
) -> Dict[str, Any]:
    """Return seconds, speed relative to REFERENCE and memory of each variant, by turns.

    A variant that does not fit memory beside the others is reported as such.
    """
    cases: Dict[str, Case] = {}
    skipped: Dict[str, str] = {}
    rows: Dict[str, Dict[str, Any]] = {}
    with limited_memory(device, None):
        for label, name, count in variants:
            sized = shape._replace(num_experts=count)
            try:
                made = attempt(partial(make_case, name, sized, device))
            except ModuleNotFoundError as missing:
                skipped[label] = f"needs the Python package {missing.name}, which is not installed"
                continue
            rows[label] = {"fits": made.fits, "num_experts": count}
            if made.fits:
                cases[label] = made.value
        for label in list(cases):  # in the memory that all of them leave
            counted = attempt(partial(count_work, cases[label], device))
            rows[label].update(counted.value if counted.fits else {"fits": False})
            if not counted.fits:
                del cases[label]
        timings = alternate_phases(
            {name: Phased({"all": case.step}, case.release) for name, case in cases.items()},
            repeats, device, burn_in=1,
        )
    times = {label: phases["all"] for label, phases in timings.items()}
    for label in times:
        rows[label].update(compared(label, times, rows, shape.tokens))
    settings = {**shape._asdict(), "num_experts": sorted({each.num_experts for each in variants})}
    return {
        **describe(settings), "device": device, "reference": REFERENCE, "variants": rows,
        "skipped": skipped, "growth": growth(variants, times),
    }


def count_work(case: Case, device: str) -> Dict[str, int]:
    """Run a step twice, for what it computes, what it holds in memory, and to burn in."""
    counted = flops(case.step)
    weights = measured_weights(case.parameters)
    extra = peak_bytes(case.step, case.parameters, device)
    case.release()
    return {"flops": counted, **weights._asdict(), "extra_bytes": extra}


def compared(
    label: str, times: Dict[str, Timing], rows: Dict[str, Dict[str, Any]], tokens: int
) -> Dict[str, Any]:
    """Return a variant's times, and how it stands to the reference where that fits memory."""
    own = times[label]
    standard = times.get(REFERENCE)
    return {
        "seconds": own.median,
        "spread": own.spread,
        "tokens_per_second": tokens / own.median,
        "speed_of_reference": standard and standard.median / own.median,
        "memory_of_reference":
            standard and rows[label]["extra_bytes"] / rows[REFERENCE]["extra_bytes"],
    }


def growth(
    variants: Sequence[Variant], times: Dict[str, Timing]
) -> Dict[str, Dict[int, float]]:
    """Return the time with each number of experts, as a multiple of the time with the fewest."""
    found: Dict[str, Dict[int, float]] = {}
    for label, name, count in sorted(variants, key=lambda variant: variant.num_experts):
        if label in times and label != name:
            found.setdefault(name, {})[count] = times[label].median
    return {
        name: {count: seconds / by_count[min(by_count)] for count, seconds in by_count.items()}
        for name, by_count in found.items()
    }


def make_case(name: str, shape: Shape, device: str) -> Case:
    """Return a variant with random weights, on random sentences without padding."""
    dtype = getattr(torch, shape.dtype)
    torch.manual_seed(1)
    sentences = shape.tokens // shape.length
    x = torch.randn(sentences, shape.length, shape.embed_dim, device=device, dtype=dtype)
    grad = torch.randn_like(x)
    module, forward = build(name, shape, sentences, device)
    module.to(device, dtype)

    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        forward(x.detach().requires_grad_()).backward(grad)

    return Case(step, list(module.parameters()))


def build(name: str, shape: Shape, sentences: int, device: str) -> Any:
    """Return a module, and a function from x (B, S, C) to its output."""
    dim, width = shape.embed_dim, shape.ffn_dim
    if name == REFERENCE:
        dense = nn.Sequential(
            nn.Linear(dim, shape.top_k * width), nn.ReLU(), nn.Linear(shape.top_k * width, dim)
        )
        return dense, dense
    if name in PEERS:
        return PEERS[name](shape)
    layer = MoELayer(own_router(name, shape), Experts(shape.num_experts, dim, width))
    # sentences of a task stand together, as in the batches of a run
    task_ids = torch.arange(sentences, device=device) * shape.num_tasks // sentences
    mask = torch.ones(sentences, shape.length, dtype=torch.bool, device=device)
    inputs = RoutingInputs(task_ids, mask, task_ids, None)

    def forward(x: Tensor) -> Tensor:
        (route,) = route_ahead([SimpleNamespace(moe=layer)], x, inputs)  # type: ignore[list-item]
        return layer(x, inputs, route, with_stats=False)[0]

    return layer, forward


def own_router(name: str, shape: Shape) -> nn.Module:
    """Return a router that chooses as one that was just initialised does."""
    dim, experts = shape.embed_dim, shape.num_experts
    options = RouterOptions(top_k=shape.top_k)
    if name == "token":
        return TokenRouter(dim, experts, options)
    if name == "sentence":
        return SentenceRouter(dim, experts, options)
    groups = torch.arange(shape.num_tasks, device="cpu")
    return TaskRouter(dim, experts, options, groups, shape.num_tasks)

