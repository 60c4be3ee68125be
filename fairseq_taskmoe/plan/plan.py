"""Estimate what training a model on N GPUs needs: memory, traffic and checkpoint files.

The model is built by its own code on the meta device. All ranks have the same number of tokens;
`busiest` is the load of the experts' ranks relative to the mean.
"""

from typing import Any, Dict, List, NamedTuple, Optional

import torch

from ..data.task_table import TaskTable
from ..distributed.layout import ExpertLayout, expert_layout
from ..models.router_kinds import TASK_ROUTERS
from ..names import STACKS
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
from .traffic import (
    Exchange,
    all_reduce_bytes,
    busiest_rank,
    busiest_rank_by_chance,
    exchange_bytes,
    expected_remote_ranks,
)

GIB = 2**30


class TrainingPlan(NamedTuple):
    """How a model is to be trained, and the assumptions about the machines."""

    num_ranks: int
    ranks_per_node: int
    group_size: Optional[int]  # ranks that share a copy of the experts; None: the default
    num_targets: int  # target tokens in a micro-batch of a rank
    length: int  # target tokens of a sentence
    source_ratio: float  # source tokens for each target token
    update_freq: int
    precision: str  # fp32, fp16 or bf16
    optimizer: str
    device_gib: float  # memory of a GPU
    runtime_gib: float  # memory for CUDA, NCCL and fragmentation
    busiest: Optional[float]  # rows of the busiest rank over the mean; None: from the routers

    @property
    def num_sentences(self) -> float:
        return self.num_targets / self.length

    @property
    def shape(self) -> SentenceShape:
        return SentenceShape(max(1, round(self.length * self.source_ratio)), self.length)


def make_plan(cfg: Any, vocab_size: int, table: TaskTable, run: TrainingPlan) -> Dict[str, Any]:
    """Return the plan as nested numbers, in bytes.

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
    # bf16 stands for fp16: it has the same size, and CPUs support it
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
        "all_to_all_calls": run.update_freq * sum(e.collectives for e in exchanges.values()),
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
        "checkpoint": {
            **{name: sizes[name] for name in ("whole", "shard_0", "shard")},
            "host_memory_of_a_node_at_resume": sizes["whole"]
            * min(run.ranks_per_node, run.num_ranks),
            "device_memory_at_resume": sum(memory[name] for name in kept) + sizes["moments"],
        },
    }


def warnings(plan: Dict[str, Any], run: TrainingPlan, sharded_checkpoints: bool) -> List[str]:
    """Return warnings about memory and about an uneven load."""
    room = run.device_gib * GIB
    found = []
    if plan["memory_total"] > room:
        found.append(
            f"does not fit: {plan['memory_total'] / GIB:.1f} GiB on a GPU of "
            f"{run.device_gib:g} GiB"
        )
    if plan["checkpoint"]["device_memory_at_resume"] > room and not sharded_checkpoints:
        found.append(
            "an ordinary checkpoint cannot be resumed: each GPU loads the optimizer state of all "
            "experts; use --moe-sharded-checkpoints"
        )
    for stack, factor in plan["busiest_rank"].items():
        if factor > 2:
            found.append(
                f"{stack}: the rank with the most frequently chosen experts computes {factor:.1f} "
                "times the mean number of rows, and the others wait for it; smaller expert groups "
                "(--moe-expert-parallel-size) or a router with more and smaller tasks help"
            )
    return found


def _busiest(
    cfg: Any, stack: str, num_layers: int, layout: ExpertLayout, table: TaskTable, run: TrainingPlan
) -> float:
    """Return the rows of the busiest rank over the mean; token routing is assumed balanced."""
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
    run: TrainingPlan,
    layout: ExpertLayout,
    local: LocalParameters,
    activations: Activations,
    remote: float,
    busiest: Dict[str, float],
) -> Dict[str, float]:
    """Return the bytes on the device of the busiest rank; their sum is an upper bound."""
    extra = {stack: busiest[stack] - 1 for stack in STACKS}
    kept = activations.total + sum(extra[stack] * activations.experts[stack] for stack in STACKS)
    layer = activations.largest_layer
    layer += extra[activations.largest_layer_stack] * activations.largest_layer_experts
    ranks_per_token = remote * layout.size / max(1, layout.size - 1)  # with the own rank
    buffers = max(
        _tokens(run, stack) * getattr(cfg, f"{stack}_embed_dim") * (1 + busiest[stack])
        for stack in STACKS
    ) * ranks_per_token * value_bytes(run.precision)
    # backward of a layer: its activations, which may be recomputed, and gradients of equal size
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


def _tokens(run: TrainingPlan, stack: str) -> float:
    return run.num_sentences * (run.shape.source if stack == "encoder" else run.shape.target)


def _exchange(
    cfg: Any, stack: str, num_layers: int, run: TrainingPlan, layout: ExpertLayout, remote: float
) -> Exchange:
    kind = str(getattr(cfg, f"{stack}_moe_router"))
    tokens = _tokens(run, stack)
    return exchange_bytes(
        num_layers, tokens, tokens if kind == "token" else run.num_sentences,
        getattr(cfg, f"{stack}_embed_dim"), value_bytes(run.precision), cfg.moe_top_k, layout.size,
        remote, kind != "token" and (kind, stack) != ("sentence", "encoder"),
        cfg.checkpoint_activations,
    )
