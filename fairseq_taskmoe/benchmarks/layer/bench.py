"""One MoE layer, forward and backward, compared with dense networks and other libraries' layers.

`dense` is a feed-forward network as wide as the K experts of a token: the same computation. Other
libraries' layers may compute more or less, which `flops` shows.
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
from ..measure import Timing, alternate, describe
from ..memory_limit import attempt, limited_memory
from ..resources import flops, measured_weights, peak_bytes
from .peers import PEERS

REFERENCE = "dense"
OWN = ("token", "sentence", "task")
VARIANTS = (REFERENCE, *OWN, *PEERS)


class LayerLoad(NamedTuple):
    """The computation of one step."""

    num_experts: int = 32
    embed_dim: int = 512
    ffn_dim: int = 2048
    top_k: int = 2
    tokens: int = 4096
    length: int = 32  # tokens of a sentence
    num_tasks: int = 8
    dtype: str = "float32"


class LayerCase(NamedTuple):
    """A layer that is ready to run."""

    step: Callable[[], None]  # forward and backward
    parameters: List[nn.Parameter]


class LayerVariant(NamedTuple):
    """A layer to measure."""

    label: str
    name: str  # of VARIANTS
    num_experts: int


def list_variants(names: Sequence[str], expert_counts: Sequence[int]) -> List[LayerVariant]:
    """Return the variants with each number of experts, and the dense network once."""
    if len(expert_counts) == 1:
        return [LayerVariant(name, name, expert_counts[0]) for name in names]
    return [
        LayerVariant(name if name == REFERENCE else f"{name}@{count}", name, count)
        for name in names
        for count in (expert_counts[:1] if name == REFERENCE else expert_counts)
    ]


def bench_layer(
    variants: Sequence[LayerVariant], load: LayerLoad, repeats: int, device: str
) -> Dict[str, Any]:
    """Return seconds, speed relative to REFERENCE and memory of each variant."""
    cases: Dict[str, LayerCase] = {}
    rows: Dict[str, Dict[str, Any]] = {}
    skipped: Dict[str, str] = {}
    with limited_memory(device, None):
        for label, name, count in variants:
            make = partial(make_case, name, load._replace(num_experts=count), device)
            try:
                made = attempt(make)
            except ModuleNotFoundError as missing:
                skipped[label] = f"needs the Python package {missing.name}, which is not installed"
                continue
            rows[label] = {"num_experts": count, "fits": False}
            if made.fits:
                cases[label] = made.value
        for label, case in list(cases.items()):  # with the memory that all cases leave free
            counted = attempt(partial(count_work, case, device))
            if counted.fits:
                rows[label].update(fits=True, **counted.value)
            else:
                del cases[label]
        steps = {label: case.step for label, case in cases.items()}
        timings = alternate(steps, repeats, device, burn_in=1)
    standard = timings.get(REFERENCE)
    for label, timing in timings.items():
        row = rows[label]
        row.update(
            seconds=timing.median, spread=timing.spread,
            tokens_per_second=load.tokens / timing.median,
            speed_of_reference=standard and standard.median / timing.median,
            memory_of_reference=standard and row["extra_bytes"] / rows[REFERENCE]["extra_bytes"],
        )
    settings = {**load._asdict(), "num_experts": sorted({each.num_experts for each in variants})}
    return {
        **describe(settings), "device": device, "reference": REFERENCE, "variants": rows,
        "skipped": skipped, "growth": growth(variants, timings),
    }


def count_work(case: LayerCase, device: str) -> Dict[str, int]:
    """Run a step for its operations and its memory, which also is a burn-in."""
    counted = flops(case.step)
    peak = peak_bytes(case.step, case.parameters, device)
    return {"flops": counted, **measured_weights(case.parameters)._asdict(), "extra_bytes": peak}


def growth(
    variants: Sequence[LayerVariant], times: Dict[str, Timing]
) -> Dict[str, Dict[int, float]]:
    """Return the time with each number of experts relative to the time with the fewest."""
    found: Dict[str, Dict[int, float]] = {}
    for label, name, count in sorted(variants, key=lambda variant: variant.num_experts):
        if label in times and label != name:
            found.setdefault(name, {})[count] = times[label].median
    return {
        name: {count: seconds / by_count[min(by_count)] for count, seconds in by_count.items()}
        for name, by_count in found.items()
    }


def make_case(name: str, load: LayerLoad, device: str) -> LayerCase:
    """Return a variant with random weights, on random sentences without padding."""
    dtype = getattr(torch, load.dtype)
    torch.manual_seed(1)
    sentences = load.tokens // load.length
    x = torch.randn(sentences, load.length, load.embed_dim, device=device, dtype=dtype)
    grad = torch.randn_like(x)
    module, forward = build(name, load, sentences, device)
    module.to(device, dtype)

    def step() -> None:
        module.zero_grad(set_to_none=True)
        forward(x.detach().requires_grad_()).backward(grad)

    return LayerCase(step, list(module.parameters()))


def build(name: str, load: LayerLoad, sentences: int, device: str) -> Any:
    """Return a module, and a function from x (B, S, C) to its output."""
    dim, width = load.embed_dim, load.ffn_dim
    if name == REFERENCE:
        dense = nn.Sequential(
            nn.Linear(dim, load.top_k * width), nn.ReLU(), nn.Linear(load.top_k * width, dim)
        )
        return dense, dense
    if name in PEERS:
        return PEERS[name](load)
    layer = MoELayer(own_router(name, load), Experts(load.num_experts, dim, width))
    # the sentences of a task are adjacent, as in training batches
    task_ids = torch.arange(sentences, device=device) * load.num_tasks // sentences
    mask = torch.ones(sentences, load.length, dtype=torch.bool, device=device)
    inputs = RoutingInputs(task_ids, mask, task_ids, None)

    def forward(x: Tensor) -> Tensor:
        (route,) = route_ahead([SimpleNamespace(moe=layer)], x, inputs)  # type: ignore[list-item]
        return layer(x, inputs, route, with_stats=False)[0]

    return layer, forward


def own_router(name: str, load: LayerLoad) -> nn.Module:
    """Return a newly initialised router."""
    dim, experts = load.embed_dim, load.num_experts
    options = RouterOptions(top_k=load.top_k)
    if name == "token":
        return TokenRouter(dim, experts, options)
    if name == "sentence":
        return SentenceRouter(dim, experts, options)
    groups = torch.arange(load.num_tasks, device="cpu")
    return TaskRouter(dim, experts, options, groups, load.num_tasks)

