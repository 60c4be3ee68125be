"""Estimate what training on N GPUs needs: memory, traffic and checkpoint files.

    taskmoe plan --arch transformer_task_moe_big --vocab-size 64000 --num-pairs 204 \\
        --ranks 128 --max-tokens 4096 --precision bf16 --device h200

Nothing is trained, and no weights are allocated. The model is built by its own code; the
assumptions about machines and routing are printed, and can be changed by flags.
"""

import argparse
from typing import Dict

from ..errors import refuse
from .arguments import refuse_empty
from .params import (
    ModelFlag,
    add_model_flags,
    given_model_flags,
    model_config,
    model_flags,
    task_table,
)

POSITIVE = (
    "ranks", "ranks_per_node", "max_tokens", "length", "source_ratio", "update_freq", "memory_gib",
    "busiest",
)
# GiB that a process can use; 80 GB h100 and a100, 32 GB v100
DEVICES = {"h200": 139.0, "h100": 79.0, "a100": 79.0, "v100": 31.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", required=True, metavar="NAME",
        help="architecture, such as transformer_task_moe_big",
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
        "--num-pairs", type=int, metavar="N", help="instead: N directions into and from English"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    _add_training(parser.add_argument_group("training"))
    _add_machines(parser.add_argument_group("machines"))
    group = parser.add_argument_group("model flags, as in fairseq-train; --arch changes defaults")
    for name in ("--max-source-positions", "--max-target-positions"):
        group.add_argument(name, type=int, metavar="N", help="for learned positions; default 1024")
    add_model_flags(group, _fields())


def _fields() -> Dict[str, ModelFlag]:
    """Return the model's options, without the option that has a flag of its own here."""
    return {
        name: flag for name, flag in model_flags().items()
        if name != "moe_expert_parallel_size"
    }


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ranks", type=int, required=True, metavar="N", help="number of GPUs")
    group.add_argument(
        "--moe-expert-parallel-size", type=int, metavar="P",
        help="ranks that share one copy of the experts (default: that of training)",
    )
    group.add_argument(
        "--max-tokens", type=int, required=True, metavar="T",
        help="target tokens in a micro-batch of a rank",
    )
    group.add_argument(
        "--length", type=int, default=32, help="target tokens of a sentence; default: 32"
    )
    group.add_argument(
        "--source-ratio", type=float, default=1.0,
        help="source tokens for each target token; default: 1",
    )
    group.add_argument("--update-freq", type=int, default=1, help="micro-batches; default: 1")
    group.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    group.add_argument(
        "--optimizer", choices=["adam", "adafactor", "sgd", "nag", "adagrad"], default="adam"
    )
    group.add_argument(
        "--busiest", type=float, metavar="X",
        help="rows of the busiest rank in MoE layers over the mean (default: from the routers)",
    )


def _add_machines(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", choices=list(DEVICES), help="sets --memory-gib; 80 GB h100 and a100, 32 GB v100"
    )
    group.add_argument("--memory-gib", type=float, metavar="X", help="memory of a GPU")
    group.add_argument("--ranks-per-node", type=int, default=8, metavar="M", help="default: 8")
    group.add_argument(
        "--runtime-gib", type=float, default=2.0, metavar="X",
        help="memory for CUDA, NCCL and fragmentation; default: 2",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    for name in POSITIVE:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value}: give more than 0")
    if not 0 <= args.runtime_gib < float("inf"):
        refuse(f"--runtime-gib {args.runtime_gib}: give 0 or more")
    device_gib = args.memory_gib or DEVICES.get(args.device)
    if device_gib is None:
        refuse("give --memory-gib or --device")
    words = given_model_flags(argparse.Namespace(**{**vars(args), **_not_of_the_model()}))

    from .. import register  # noqa: F401
    from ..plan.plan import TrainingPlan, make_plan, warnings
    from ..plan.report import assumptions, plan_text

    training = TrainingPlan(
        args.ranks, args.ranks_per_node, args.moe_expert_parallel_size, args.max_tokens,
        args.length, args.source_ratio, args.update_freq, args.precision, args.optimizer,
        device_gib, args.runtime_gib, args.busiest,
    )
    cfg = model_config(args, words)
    plan = make_plan(cfg, args.vocab_size, task_table(args), training)
    found = warnings(plan, training, cfg.moe_sharded_checkpoints)
    if args.format == "json":
        import json

        print(json.dumps({**plan, "assumed": assumptions(training), "warnings": found}, indent=2))
    else:
        print(plan_text(plan, training, found))


def _not_of_the_model() -> Dict[str, None]:
    return {name: None for name in model_flags() if name not in _fields()}
