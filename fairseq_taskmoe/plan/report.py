"""The text of a plan, with its assumptions."""

from typing import Any, Dict, List

from .plan import GIB, TrainingPlan


def plan_text(plan: Dict[str, Any], run: TrainingPlan, warnings: List[str]) -> str:
    """Return the plan as tables."""
    parameters, layout, traffic = plan["parameters"], plan["layout"], plan["traffic"]
    lines = [
        "parameters",
        *(_row(name, f"{number / 1e6:,.1f} M") for name, number in parameters.items()),
        "",
        "layout",
        *(_row(name, f"{number:,}") for name, number in layout.items()),
        *(_row(f"busiest rank, {stack}", f"{factor:.2f} x mean rows")
          for stack, factor in plan["busiest_rank"].items()),
        "",
        "memory of a GPU (upper bound: the sum of parts that have their peaks at different times)",
        *(_row(name, _gib(size)) for name, size in plan["memory"].items()),
        _row("total", _gib(plan["memory_total"])),
        "",
        "sent by a rank in an update",
        _row("other ranks that a token is sent to", f"{traffic['remote_ranks_per_token']:.2f}"),
        *(_row(name, _gib(traffic[name])) for name in
          ("exchange_encoder", "exchange_decoder", "exchange", "all_reduce_shared",
           "all_reduce_experts")),
        _row("all-to-all calls", f"{traffic['all_to_all_calls']:,}"),
        "",
        "checkpoint",
        *(_row(name, _gib(size)) for name, size in plan["checkpoint"].items()),
        "",
        "assumed",
        *(f"  {line}" for line in assumptions(run)),
    ]
    return "\n".join([*lines, "", *(f"warning: {warning}" for warning in warnings)]).rstrip()


def assumptions(run: TrainingPlan) -> List[str]:
    """Return the assumptions of the numbers, with the flags that change them."""
    return [
        f"--memory-gib {run.device_gib:g}; --ranks-per-node {run.ranks_per_node}",
        f"--runtime-gib {run.runtime_gib:g} for CUDA, NCCL and fragmentation",
        f"sentences of --length {run.length} target tokens, --source-ratio {run.source_ratio:g}, "
        "no padding",
        "balanced token, sentence and random routing; equally frequent tasks with random experts"
        if run.busiest is None else f"--busiest {run.busiest:g}",
        "fused attention; dropout keeps one byte for each element; no EMA; fairseq's own Adam",
    ]


def _row(name: str, value: str) -> str:
    return f"  {name.replace('_', ' '):34}{value:>20}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.3f} GiB"
