"""A plan in words and figures, with everything that it assumes."""

from typing import Any, Dict, List

from .plan import Run
from .time import GIB


def plan_text(plan: Dict[str, Any], run: Run, warnings: List[str]) -> str:
    """Return the plan as tables."""
    parameters, layout, traffic = plan["parameters"], plan["layout"], plan["traffic"]
    updates = run.num_ranks * run.num_targets * run.update_freq
    seconds = plan["seconds"]["total"]
    lines = [
        "parameters",
        *(_row(name, f"{number / 1e6:,.1f} M") for name, number in parameters.items()),
        "",
        "layout",
        *(_row(name, f"{number:,}") for name, number in layout.items()),
        *(_row(f"busiest rank, {stack}", f"{factor:.2f} x mean rows")
          for stack, factor in plan["busiest_rank"].items()),
        "",
        "memory of a GPU (upper bound: parts that do not peak together are added up)",
        *(_row(name, _gib(size)) for name, size in plan["memory"].items()),
        _row("total", _gib(plan["memory_total"])),
        "",
        "sent by a rank in an update",
        _row("other ranks that a token visits", f"{traffic['remote_ranks_per_token']:.2f}"),
        *(_row(name, _gib(traffic[name])) for name in
          ("exchange_encoder", "exchange_decoder", "exchange", "exchange_minimum",
           "all_reduce_shared", "all_reduce_experts")),
        "",
        "seconds of an update (nothing overlaps)",
        *(_row(name, f"{size:.3f}") for name, size in plan["seconds"].items()),
        _row("target tokens of an update", f"{updates:,}"),
        _row("target tokens a second", f"{updates / seconds:,.0f}"),
        "",
        "checkpoint",
        *(_row(name, _gib(size)) for name, size in plan["checkpoint"].items()),
        "",
        "assumed",
        *(f"  {line}" for line in assumptions(run)),
    ]
    return "\n".join([*lines, "", *(f"warning: {warning}" for warning in warnings)]).rstrip()


def assumptions(run: Run) -> List[str]:
    """Return what the numbers rest on, with the flags that change it."""
    device = run.device
    return [
        f"--tflops {device.tflops:g} in {run.precision}, of which --utilisation {run.utilisation:g}"
        " is reached",
        f"--memory-gib {device.memory_gib:g} at --memory-bandwidth-gbs {device.memory_gbs:g}",
        f"--node-bandwidth-gbs {device.node_gbs:g} between GPUs of a node of --ranks-per-node "
        f"{run.ranks_per_node}, --bandwidth-gbs {device.network_gbs:g} of each GPU to other nodes",
        f"--latency-us {run.latency * 1e6:g} for each all-to-all; all-reduce in one ring over the "
        "slowest link",
        f"--runtime-gib {run.runtime_gib:g} for CUDA, NCCL and fragmentation",
        f"sentences of --length {run.length} target tokens, --source-ratio {run.source_ratio:g}, "
        "no padding",
        "token, sentence and random routing balanced; tasks equally frequent, their experts drawn "
        "by chance" if run.busiest is None else f"--busiest {run.busiest:g}",
        "fused attention; dropout keeps a byte an element; no EMA; fairseq's own Adam",
    ]


def _row(name: str, value: str) -> str:
    return f"  {name.replace('_', ' '):34}{value:>20}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.3f} GiB"
