"""Estimate what training takes on N GPUs: memory, traffic, time, checkpoints.

    taskmoe plan --arch transformer_task_moe_big --vocab-size 64000 --num-pairs 204 \\
        --ranks 128 --max-tokens 4096 --precision bf16 --device h200

Nothing is trained and no weights are allocated. The model is that of its own code; machines and
routing are assumptions, which are printed, and which flags change.
"""

import argparse
from typing import Any, Dict

from ..errors import refuse
from .flags import refuse_empty
from .params import add_model_flags, given_model_flags, model_config, model_fields, task_table

POSITIVE = (
    "ranks", "ranks_per_node", "max_tokens", "length", "source_ratio", "update_freq",
    "utilisation", "tflops", "memory_gib", "memory_bandwidth_gbs", "node_bandwidth_gbs",
    "bandwidth_gbs", "busiest",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", required=True, metavar="NAME", help="architecture, as transformer_task_moe_big"
    )
    parser.add_argument(
        "--vocab-size", type=int, required=True, metavar="N",
        help="rows of the embedding: words, language tags and 4 special symbols",
    )
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated tasks (default: the paper's 30 WMT directions)",
    )
    parser.add_argument(
        "--num-pairs", type=int, metavar="N", help="instead: N directions into and out of English"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    _add_training(parser.add_argument_group("training"))
    _add_machines(parser.add_argument_group("machines"))
    group = parser.add_argument_group("the model's flags, as fairseq-train explains them")
    for name in ("--max-source-positions", "--max-target-positions"):
        group.add_argument(name, type=int, metavar="N", help="for learned positions; default 1024")
    add_model_flags(group, _fields())


def _fields() -> Dict[str, bool]:
    """Return the model's options, less those that say how it is spread over ranks."""
    return {
        name: is_switch for name, is_switch in model_fields().items()
        if name != "moe_expert_parallel_size"
    }


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ranks", type=int, required=True, metavar="N", help="GPUs in all")
    group.add_argument(
        "--moe-expert-parallel-size", type=int, metavar="P",
        help="ranks that share one copy of the experts (default: as training chooses)",
    )
    group.add_argument(
        "--max-tokens", type=int, required=True, metavar="T",
        help="target tokens of a rank and micro-batch",
    )
    group.add_argument("--length", type=int, default=32, help="of a sentence; default: 32")
    group.add_argument(
        "--source-ratio", type=float, default=1.0, help="source tokens a target token; default: 1"
    )
    group.add_argument("--update-freq", type=int, default=1, help="micro-batches; default: 1")
    group.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    group.add_argument(
        "--optimizer", choices=["adam", "adafactor", "sgd", "nag", "adagrad"], default="adam"
    )
    group.add_argument(
        "--busiest", type=float, metavar="X",
        help="rows of the busiest rank in MoE layers over the mean (default: by the routers)",
    )


def _add_machines(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", choices=["h200", "h100", "a100", "v100"],
        help="80 GB h100 and a100, 32 GB v100; the next five flags then have the maker's values",
    )
    for flag, what in (
        ("--tflops", "peak of matrix products in the precision of training"),
        ("--memory-gib", "memory of a GPU"),
        ("--memory-bandwidth-gbs", "10^9 bytes a second of that memory"),
        ("--node-bandwidth-gbs", "10^9 bytes a second from a GPU to others of its node"),
        ("--bandwidth-gbs", "10^9 bytes a second from a GPU to other nodes"),
    ):
        group.add_argument(flag, type=float, metavar="X", help=what)
    group.add_argument("--ranks-per-node", type=int, default=8, metavar="M", help="default: 8")
    group.add_argument(
        "--utilisation", type=float, default=0.3, metavar="X",
        help="share of the peak that matrix products reach; default: 0.3",
    )
    group.add_argument(
        "--latency-us", type=float, default=50.0, metavar="X",
        help="microseconds of each all-to-all beside its bytes; default: 50",
    )
    group.add_argument(
        "--runtime-gib", type=float, default=2.0, metavar="X",
        help="memory that CUDA, NCCL and fragmentation take; default: 2",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    for name in POSITIVE:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value}: give more than 0")
    for name in ("latency_us", "runtime_gib"):
        if not 0 <= getattr(args, name) < float("inf"):
            refuse(f"--{name.replace('_', '-')} {getattr(args, name)}: give 0 or more")
    if args.utilisation > 1:
        refuse(f"--utilisation {args.utilisation}: a share of the peak is at most 1")
    words = given_model_flags(argparse.Namespace(**{**vars(args), **_not_of_the_model()}))

    from .. import register  # noqa: F401
    from ..plan.plan import Run, make_plan, warnings
    from ..plan.report import assumptions, plan_text

    plan_of = Run(
        args.ranks, args.ranks_per_node, args.moe_expert_parallel_size, args.max_tokens,
        args.length, args.source_ratio, args.update_freq, args.precision, args.optimizer,
        _device(args), args.utilisation, args.latency_us / 1e6, args.runtime_gib, args.busiest,
    )
    cfg = model_config(args, words)
    plan = make_plan(cfg, args.vocab_size, task_table(args), plan_of)
    warned = warnings(plan, plan_of, cfg.moe_sharded_checkpoints)
    if args.format == "json":
        import json

        print(json.dumps({**plan, "assumed": assumptions(plan_of), "warnings": warned}, indent=2))
    else:
        print(plan_text(plan, plan_of, warned))


def _not_of_the_model() -> Dict[str, None]:
    return {name: None for name in model_fields() if name not in _fields()}


def _device(args: argparse.Namespace) -> Any:
    """Return the device that the flags describe, refusing one that is not known in full."""
    from ..plan.time import Device, known_device

    known = known_device(args.device, args.precision) if args.device else Device(*[None] * 5)
    flags = ("tflops", "memory_gib", "memory_bandwidth_gbs", "node_bandwidth_gbs", "bandwidth_gbs")
    given = [getattr(args, name) for name in flags]
    values = [own if own is not None else its for own, its in zip(given, known, strict=True)]
    for name, value in zip(flags, values, strict=True):
        if value is None:
            refuse(
                f"--{name.replace('_', '-')} is not known"
                + (f" of --device {args.device} with --precision {args.precision}: give it"
                   if args.device else ": give it, or --device")
            )
    return Device(*values)
