"""Measure one MoE layer, forward and backward, and a dense network of the same computation.

Variants from other libraries need fairscale or transformers:

    taskmoe bench layer --threads 2 --variants dense,task,fairscale,nllb,nllb_topk
    taskmoe bench layer --threads 2 --variants task,token --moe-expert-count 8,32,128

GFLOP: operations that torch counts, which show whether a variant computes more or less. fairscale
drops tokens beyond a capacity. nllb is Hugging Face's layer as installed, which sends tokens to the
wrong experts and computes much more; nllb_topk calls its parts correctly.
"""

import argparse
from typing import Any, Dict

from . import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_expert_counts(parser)
    parser.add_argument("--embed-dim", type=int, default=512, metavar="C", help="default: 512")
    parser.add_argument("--ffn-dim", type=int, default=2048, metavar="F", help="default: 2048")
    parser.add_argument("--moe-top-k", type=int, default=2, metavar="K", help="default: 2")
    parser.add_argument("--tokens", type=int, default=4096, help="in a batch; default: 4096")
    parser.add_argument("--length", type=int, default=32, help="of a sentence; default: 32")
    parser.add_argument("--tasks", type=int, default=8, metavar="N", help="in a batch; default: 8")
    parser.add_argument(
        "--variants", default="dense,token,sentence,task",
        help="comma-separated: dense, token, sentence, task, fairscale, nllb, nllb_topk",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    common.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    common.quiet_profiler()
    from ...benchmarks import measure
    from ...benchmarks.layer.bench import (
        REFERENCE,
        VARIANTS,
        LayerLoad,
        bench_layer,
        list_variants,
    )
    from ...errors import refuse

    common.check_device(args)
    if args.repeats < 2 or args.length < 1 or args.tokens < args.length * args.tasks:
        refuse("--repeats 2 or more, --length 1 or more, and --tokens for a sentence of each task")
    counts = common.expert_counts(args, least=1)
    if not 1 <= args.moe_top_k <= min(counts):
        refuse(f"--moe-top-k {args.moe_top_k}: give 1 to --moe-expert-count")
    names = list(dict.fromkeys(common.chosen_variants(args, VARIANTS)))
    if REFERENCE not in names:
        names.insert(0, REFERENCE)
    if args.moe_top_k != 2 and any(name.startswith(("nllb", "fairscale")) for name in names):
        refuse(f"--moe-top-k {args.moe_top_k}: fairscale and NLLB have 2 experts for each token")
    common.prepare(args)
    load = LayerLoad(
        counts[0], args.embed_dim, args.ffn_dim, args.moe_top_k, args.tokens, args.length,
        args.tasks, args.dtype,
    )
    report = bench_layer(list_variants(names, counts), load, args.repeats, args.device)
    print(table(report))
    if args.out:
        measure.save(args.out, report)


def table(report: Dict[str, Any]) -> str:
    """Return the report as text."""
    width = max(12, *(len(label) + 2 for label in report["variants"]))
    lines = [
        f"{'variant':{width}}{'s/step':>9}{'spread':>8}{'tokens/s':>10}{'speed':>7}{'GFLOP':>9}"
        f"{'weights':>12}{'gradients':>12}{'memory':>12}{'of dense':>9}"
    ]
    for label, row in report["variants"].items():
        lines.append(f"{label:{width}}" + (line(row) if row["fits"] else "  does not fit memory"))
    lines.append(
        f"speed: relative to {report['reference']}; memory: the peak without weights and gradients"
    )
    lines += [f"{name}: skipped, {reason}" for name, reason in report["skipped"].items()]
    for name, by_count in report["growth"].items():
        steps = ", ".join(f"{count}: {ratio:.2f}" for count, ratio in by_count.items())
        lines.append(f"{name}: time by number of experts, relative to the fewest: {steps}")
    return "\n".join(lines)


def line(row: Dict[str, Any]) -> str:
    return (
        f"{row['seconds']:9.3f}{row['spread']:8.1%}{row['tokens_per_second']:10.0f}"
        f"{common.ratio(row['speed_of_reference']):>7}{row['flops'] / 1e9:9.2f}"
        f"{row['weight_bytes'] / 1e6:9.1f} MB{row['gradient_bytes'] / 1e6:9.1f} MB"
        f"{row['extra_bytes'] / 1e6:9.1f} MB{common.ratio(row['memory_of_reference']):>9}"
    )
