"""One MoE layer, forward and backward, against dense networks and other libraries' MoE layers.

`dense` is a feed-forward network as wide as the K experts that a token visits: the same
computation. Peers do what they do: `flops` says of each variant how much that is.
"""

from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..modules.experts import Experts
from ..modules.moe_layer import MoELayer, route_ahead
from ..modules.routers import (
    RouterOptions,
    RoutingInputs,
    SentenceRouter,
    TaskRouter,
    TokenRouter,
)
from .measure import alternate, describe
from .memory import peak_bytes
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


class Case(NamedTuple):
    """A variant that is ready to run."""

    step: Callable[[], None]  # forward and backward
    parameters: List[nn.Parameter]


def bench_layer(
    variants: Sequence[str], shape: Shape, repeats: int, device: str
) -> Dict[str, Any]:
    """Return seconds, speed relative to REFERENCE and memory of each variant, by turns."""
    cases: Dict[str, Case] = {}
    skipped: Dict[str, str] = {}
    for name in variants:
        try:
            cases[name] = make_case(name, shape, device)
        except ModuleNotFoundError as missing:
            skipped[name] = f"needs the Python package {missing.name}, which is not installed"
    timings = alternate({name: case.step for name, case in cases.items()}, repeats, device)
    rows: Dict[str, Any] = {}
    for name, timing in timings.items():
        rows[name] = {
            "seconds": timing.median,
            "spread": timing.spread,
            "tokens_per_second": shape.tokens / timing.median,
            "speed_of_reference": timings[REFERENCE].median / timing.median,
            "flops": flops(cases[name].step),
            "extra_bytes": peak_bytes(cases[name].step, cases[name].parameters, device),
        }
    return {
        **describe(shape._asdict()), "reference": REFERENCE, "variants": rows, "skipped": skipped
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


def flops(step: Callable[[], None]) -> int:
    """Return the operations of a step's matrix products, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
