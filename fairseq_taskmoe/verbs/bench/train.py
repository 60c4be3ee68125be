"""Measure training steps of whole models on random tokens.

    taskmoe bench train --tokens 4096 --threads 2 --variants dense_equal,target_target,token_token
    taskmoe bench train --arch small --full-step --variants stock,dense,dense:medium
    taskmoe bench train --variants dense_equal,target_target --moe-expert-count 8,32,128

A step is forward, loss and backward. `dense_equal` has a network as wide as the chosen experts in
place of each MoE layer, the same computation for each token; `dense` has the ordinary width in all
layers; `stock` is fairseq's own `transformer` of that size. GFLOP and memory are those of forward
and backward; memory is the peak without weights and gradients.
"""

import argparse
from typing import Any, Dict, List

from ..arguments import pairs_in_flag
from . import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", choices=["tiny", "small", "base", "big"], default="base",
        help="size; small: 256/1024, 4 heads, 3+3 layers; default: base",
    )
    common.add_expert_counts(parser)
    parser.add_argument(
        "--tokens", type=int, default=4096, help="in a batch, on each side; default: 4096"
    )
    parser.add_argument("--length", type=int, default=32, help="of a sentence; default: 32")
    parser.add_argument(
        "--ragged", action="store_true",
        help="sentences of different lengths up to --length, with about an eighth of positions "
        "padding, and tasks in random order (default: equal lengths, alternating tasks)",
    )
    parser.add_argument("--vocab-size", type=int, default=8000, help="words; default: 8000")
    parser.add_argument(
        "--variants", default="dense_equal,target_target,token_token,dense",
        help="comma-separated: stock, dense, dense_equal, target_target, token_token; a suffix "
        "such as :medium sets the --float32-matmul-precision of one variant",
    )
    parser.add_argument(
        "--reference", metavar="NAME",
        help="variant whose speed is 1 (default: dense_equal if measured, else the first)",
    )
    parser.add_argument(
        "--full-step", action="store_true",
        help="also clip gradients and update parameters with fairseq's adam",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--float32-matmul-precision", choices=common.PRECISIONS, default="highest",
        help="as in training; default: highest",
    )
    parser.add_argument(
        "--lang-pairs", default="en-de,de-en,en-fr,fr-en,en-ru,ru-en,en-zh,zh-en",
        help="tasks of the sentences",
    )
    common.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    common.quiet_profiler()
    from ...benchmarks import measure
    from ...benchmarks.train.batch import BatchSize
    from ...benchmarks.train.bench import TrainingLoad, bench_train
    from ...benchmarks.train.models import list_variants
    from ...errors import refuse

    common.check_device(args)
    if args.repeats < 2 or args.length < 2 or args.tokens < args.length:
        refuse("--repeats 2 or more, --length 2 or more, and --tokens for at least one sentence")
    counts = common.expert_counts(args, least=2)
    words = chosen(args)
    variants = list_variants(words, counts, args.float32_matmul_precision)
    labels = [variant.label for variant in variants]
    reference = args.reference or ("dense_equal" if "dense_equal" in labels else labels[0])
    if reference not in labels:
        refuse(f"--reference {reference}: choose from --variants, here {', '.join(labels)}")
    common.prepare(args)
    text = BatchSize(args.tokens, args.length, args.ragged)
    load = TrainingLoad(args.arch, args.vocab_size, text, args.full_step, args.dtype)
    report = bench_train(
        variants, reference, load, args.repeats, args.device, pairs_in_flag(args)
    )
    print(table(report))
    if args.out:
        measure.save(args.out, report)


def chosen(args: argparse.Namespace) -> List[str]:
    """Return the variants' names; refuses an unknown one."""
    from ...benchmarks.train.models import VARIANTS
    from ...errors import refuse

    words = list(dict.fromkeys(args.variants.split(",")))
    for word in words:
        name, colon, precision = word.partition(":")
        if name not in VARIANTS:
            refuse(f"--variants {word}: choose from {', '.join(VARIANTS)}")
        if colon and precision not in common.PRECISIONS:
            refuse(f"--variants {word}: choose a precision from {', '.join(common.PRECISIONS)}")
    return words


def table(report: Dict[str, Any]) -> str:
    """Return the report as text."""
    full = report["settings"]["full_step"]
    width = max(18, *(len(label) + 2 for label in report["variants"]))
    lines = [
        f"{'variant':{width}}{'s/step':>9}{'spread':>8}{'tokens/s':>10}{'speed':>7}{'GFLOP':>9}"
        f"{'weights':>11}{'gradients':>11}{'memory':>11}"
        + (f"{'forward+backward':>18}{'update':>16}" if full else "")
    ]
    for label, row in report["variants"].items():
        lines.append(f"{label:{width}}" + (line(row) if row["fits"] else "  does not fit memory"))
    lines.append(
        f"speed: relative to {report['reference']}; {report['padding']:.1%} of positions are "
        "padding"
        + ("\nforward+backward: seconds and speed; update: clipping and adam" if full else "")
    )
    return "\n".join(lines)


def line(row: Dict[str, Any]) -> str:
    phases = ""
    if "phases" in row:
        first, update = row["phases"]["forward_backward"], row["phases"]["update"]
        phases = (
            f"{first['seconds']:11.3f}{common.ratio(first['speed_of_reference']):>7}"
            f"{update['seconds']:9.3f}{row['update_share']:7.1%}"
        )
    return (
        f"{row['seconds']:9.3f}{row['spread']:8.1%}{row['tokens_per_second']:10.0f}"
        f"{common.ratio(row['speed_of_reference']):>7}{row['flops'] / 1e9:9.2f}"
        f"{row['weight_bytes'] / 1e6:8.1f} MB{row['gradient_bytes'] / 1e6:8.1f} MB"
        f"{row['extra_bytes'] / 1e6:8.1f} MB{phases}"
    )
