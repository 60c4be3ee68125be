"""What training a model on N GPUs takes: memory, traffic, time and files, before paying for them.

Estimates, from the model that its own code builds on the meta device. Every rank has the same
number of tokens; the experts' rows are spread as `busiest` says.
"""

from typing import Any, Dict, List, NamedTuple, Optional

import torch

from ..data.task_table import TaskTable
from ..distributed.layout import ExpertLayout, expert_layout
from ..models.config import STACKS
from ..models.router_kinds import TASK_ROUTERS
from .activations import Activations, SentenceShape, measure_activations
from .memory import (
    LocalParameters,
    checkpoint_sizes,
    gradient_buffer_bytes,
    local_parameters,
    loss_work_bytes,
    state_bytes,
    step_work_bytes,
    value_bytes,
)
from .parameters import build_on_meta
from .time import GIB, OPTIMIZER_TRAFFIC, Device, forward_flops, link_seconds
from .traffic import (
    Exchange,
    all_reduce_bytes,
    busiest_rank,
    busiest_rank_by_chance,
    exchange_bytes,
    expected_remote_ranks,
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Run(NamedTuple):
    """How a model is to be trained, and what is assumed of the machines."""

    num_ranks: int
    ranks_per_node: int
    group_size: Optional[int]  # ranks that share a copy of the experts; None: as training chooses
    num_targets: int  # target tokens of a rank and micro-batch
    length: int  # target tokens of a sentence
    source_ratio: float  # source tokens for each target token
    update_freq: int
    precision: str  # fp32, fp16 or bf16
    optimizer: str
    device: Device
    utilisation: float  # share of the device's peak that matrix products reach
    latency: float  # seconds of a collective, however small
    runtime_gib: float  # memory that goes to CUDA, NCCL and fragmentation
    busiest: Optional[float]  # rows of the busiest rank over the mean; None: by the routers

    @property
    def num_sentences(self) -> float:
        return self.num_targets / self.length

    @property
    def shape(self) -> SentenceShape:
        return SentenceShape(max(1, round(self.length * self.source_ratio)), self.length)


def make_plan(cfg: Any, vocab_size: int, table: TaskTable, run: Run) -> Dict[str, Any]:
    """Return the plan as nested numbers: bytes, and seconds for an update.

    `traffic` is what one rank sends in an update.
    """
    layout = expert_layout(cfg.moe_expert_count, run.num_ranks, run.group_size)
    model = build_on_meta(cfg, vocab_size, table)
    moe_layers = {
        stack: sum(layer.moe is not None for layer in getattr(model, stack).layers)
        for stack in STACKS
    }
    local = local_parameters(model, layout)
    busiest = {
        stack: _busiest(cfg, stack, moe_layers[stack], layout, table, run) for stack in STACKS
    }
    # bf16 for fp16, which is as large and which CPUs compute
    dtype = torch.float32 if run.precision == "fp32" else torch.bfloat16
    activations = measure_activations(cfg, vocab_size, table, run.shape, run.num_sentences, dtype)
    remote = expected_remote_ranks(layout, cfg.moe_top_k)
    memory = _memory(cfg, vocab_size, run, layout, local, activations, remote, busiest)
    exchanges = {
        stack: _exchange(cfg, stack, moe_layers[stack], run, layout, remote) for stack in STACKS
    }
    width = value_bytes(run.precision)
    traffic = {
        "remote_ranks_per_token": remote,
        **{f"exchange_{stack}": run.update_freq * exchanges[stack].total for stack in STACKS},
        "exchange": run.update_freq * sum(e.total for e in exchanges.values()),
        "exchange_minimum": 0,
        "all_reduce_shared": all_reduce_bytes(local.num_shared * width, run.num_ranks),
        "all_reduce_experts": all_reduce_bytes(local.num_experts * width, layout.num_replicas),
    }
    sizes = checkpoint_sizes(local, layout, run.optimizer)
    kept = ("weights", "fp32 masters", "fp32 gradients", "optimizer state")
    return {
        "parameters": {
            "total": local.total,
            "shared": local.num_shared,
            "experts": local.num_experts * layout.size,
            "experts_on_a_rank": local.num_experts,
            "on_a_rank": local.num_local,
        },
        "layout": {
            "ranks": run.num_ranks,
            "expert_group": layout.size,
            "copies_of_the_experts": layout.num_replicas,
            "experts_of_a_layer_on_a_rank": layout.experts_per_rank,
        },
        "busiest_rank": busiest,
        "memory": memory,
        "memory_total": sum(memory.values()),
        "traffic": traffic,
        "seconds": _seconds(cfg, model, run, layout, local, exchanges, traffic, busiest),
        "checkpoint": {
            **{name: sizes[name] for name in ("whole", "shard_0", "shard")},
            "host_memory_of_a_node_at_resume": sizes["whole"]
            * min(run.ranks_per_node, run.num_ranks),
            "device_memory_at_resume": sum(memory[name] for name in kept) + sizes["moments"],
        },
    }


def warnings(plan: Dict[str, Any], run: Run, sharded_checkpoints: bool) -> List[str]:
    """Return what a user should know before starting such a run."""
    assert run.device.memory_gib is not None
    room = run.device.memory_gib * GIB
    found = []
    if plan["memory_total"] > room:
        found.append(
            f"does not fit: {plan['memory_total'] / GIB:.1f} GiB on a GPU of "
            f"{run.device.memory_gib:g} GiB"
        )
    if plan["checkpoint"]["device_memory_at_resume"] > room and not sharded_checkpoints:
        found.append(
            "an ordinary checkpoint cannot be resumed: all experts' optimizer state passes through "
            "each GPU; use --moe-sharded-checkpoints"
        )
    for stack, factor in plan["busiest_rank"].items():
        if factor > 2:
            found.append(
                f"{stack}: the rank with the most wanted experts has {factor:.1f} times the mean "
                "rows, and all others wait for it; smaller expert groups (--moe-expert-parallel-"
                "size) or a router with more and smaller tasks share them out"
            )
    return found


def _busiest(
    cfg: Any, stack: str, num_layers: int, layout: ExpertLayout, table: TaskTable, run: Run
) -> float:
    """Return the rows of the busiest rank over the mean; gates of tokens are taken as balanced."""
    kind = str(getattr(cfg, f"{stack}_moe_router"))
    if num_layers == 0 or layout.size == 1:
        return 1.0
    if run.busiest is not None:
        return run.busiest
    if kind in TASK_ROUTERS:
        return busiest_rank_by_chance(layout, cfg.moe_top_k, table.group_ids(kind))
    if kind == "static":
        first = [cfg.moe_top_k * task for task in table.group_ids("pair")]
        return busiest_rank(
            layout, [[(n + k) % layout.num_experts for k in range(cfg.moe_top_k)] for n in first]
        )
    return 1.0


def _memory(
    cfg: Any,
    vocab_size: int,
    run: Run,
    layout: ExpertLayout,
    local: LocalParameters,
    activations: Activations,
    remote: float,
    busiest: Dict[str, float],
) -> Dict[str, float]:
    """Return the bytes on the device of the busiest rank; their sum bounds the peak from above."""
    extra = {stack: busiest[stack] - 1 for stack in STACKS}
    kept = activations.total + sum(extra[stack] * activations.experts[stack] for stack in STACKS)
    layer = activations.largest_layer
    layer += extra[activations.largest_layer_stack] * activations.largest_layer_experts
    visited = remote * layout.size / max(1, layout.size - 1)  # with the own rank
    buffers = max(
        _tokens(run, stack) * getattr(cfg, f"{stack}_embed_dim") * (1 + busiest[stack])
        for stack in STACKS
    ) * visited * value_bytes(run.precision)
    # backward of a layer: gradients as large as what it kept, and before that what is recomputed
    in_backward = layer * (2 if cfg.checkpoint_activations else 1) + buffers
    peak = kept + max(in_backward, loss_work_bytes(run.num_targets, vocab_size, run.precision))
    peak = max(peak, step_work_bytes(local, run.precision, run.optimizer))
    return {
        **state_bytes(local.shared + local.experts, run.precision, run.optimizer),
        "all-reduce buffer": gradient_buffer_bytes(local, run.precision, run.num_ranks),
        "activations": kept,
        "working memory": peak - kept,
        "CUDA, NCCL": run.runtime_gib * GIB,
    }


def _tokens(run: Run, stack: str) -> float:
    return run.num_sentences * (run.shape.source if stack == "encoder" else run.shape.target)


def _exchange(
    cfg: Any, stack: str, num_layers: int, run: Run, layout: ExpertLayout, remote: float
) -> Exchange:
    kind = str(getattr(cfg, f"{stack}_moe_router"))
    tokens = _tokens(run, stack)
    return exchange_bytes(
        num_layers, tokens, tokens if kind == "token" else run.num_sentences,
        getattr(cfg, f"{stack}_embed_dim"), value_bytes(run.precision), cfg.moe_top_k, layout.size,
        remote, kind != "token" and (kind, stack) != ("sentence", "encoder"),
        cfg.checkpoint_activations,
    )


def _seconds(
    cfg: Any,
    model: Any,
    run: Run,
    layout: ExpertLayout,
    local: LocalParameters,
    exchanges: Dict[str, Exchange],
    traffic: Dict[str, float],
    busiest: Dict[str, float],
) -> Dict[str, float]:
    """Return the seconds of an update, part by part; nothing is taken to overlap."""
    device = run.device
    assert device.tflops is not None and device.memory_gbs is not None
    flops = forward_flops(model, run.shape, run.num_sentences, cfg.moe_top_k)
    compute = flops.step(busiest, cfg.checkpoint_activations)
    near = min(run.ranks_per_node, layout.size) - 1
    exchange = sum(
        link_seconds(busiest[stack] * e.total, layout.size - 1, near, device)
        for stack, e in exchanges.items()
    )
    one_node = run.num_ranks <= run.ranks_per_node  # a ring is as fast as its slowest link
    reduced = traffic["all_reduce_shared"] + traffic["all_reduce_experts"]
    collectives = sum(e.collectives for e in exchanges.values())
    parts = {
        "compute": run.update_freq * compute / (run.utilisation * device.tflops * 1e12),
        "exchange": run.update_freq * (exchange + collectives * run.latency),
        "gradient all-reduce": link_seconds(reduced, 1, int(one_node), device),
        "optimizer": local.num_local * OPTIMIZER_TRAFFIC[run.precision] / (device.memory_gbs * 1e9),
    }
    return {**parts, "total": sum(parts.values())}
