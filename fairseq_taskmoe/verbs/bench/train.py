"""Measure training steps of whole models on random tokens.

    taskmoe bench train --tokens 4096 --threads 2 --variants dense_equal,target_target,token_token
    taskmoe bench train --arch small --full-step --variants stock,dense,dense:medium
    taskmoe bench train --variants dense_equal,target_target --moe-expert-count 8,32,128

A step is forward, loss and backward of a batch of its own, with lengths as in real text.
`dense_equal` has a network as wide as the chosen experts in place of each MoE layer, the same
computation for each token; `dense` has the ordinary width in all layers; `stock` is fairseq's own
`transformer` of that size. Each variant has a process of its own, and all take each step in turn.
GFLOP are those of the first batch, without the update. Memory is the peak of the process above that
before the model was built: weights, gradients, activations, optimizer and compiled kernels.
"""

import argparse
from typing import Any, Dict, List

from ..arguments import PRECISIONS, check_least, pairs_in_flag
from . import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", choices=["tiny", "small", "base", "big"], default="base",
        help="size; small: 256/1024, 4 heads, 3+3 layers; default: base",
    )
    common.add_model(parser)
    parser.add_argument(
        "--tokens", type=int, default=4096, help="in a batch, as --max-tokens; default: 4096"
    )
    parser.add_argument(
        "--fixed-length", type=int, metavar="N",
        help="batches of one shape: all sentences have N tokens (default: lengths of real text)",
    )
    parser.add_argument(
        "--warm-up", type=int, default=20, help="steps before the measured ones; default: 20"
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
        "--float32-matmul-precision", choices=PRECISIONS, default="highest",
        help="as in training; default: highest",
    )
    parser.add_argument(
        "--lang-pairs", default="en-de,de-en,en-fr,fr-en,en-ru,ru-en,en-zh,zh-en",
        help="tasks of the sentences",
    )
    common.add_arguments(parser, repeats=40)


def run(args: argparse.Namespace) -> None:
    common.quiet_profiler()
    from ...benchmarks import lengths, measure
    from ...benchmarks.train.batch import BatchSize
    from ...benchmarks.train.bench import Steps, bench_train
    from ...benchmarks.train.models import list_variants
    from ...benchmarks.train.process import TrainingLoad
    from ...errors import refuse

    common.check_device(args)
    check_least(args, repeats=2, warm_up=0, fixed_length=2, vocab_size=20)
    longest = args.fixed_length or max(max(pair) for pair in lengths.table())
    check_least(args, tokens=longest)
    counts = common.expert_counts(args, least=2)
    words = chosen(args)
    variants = list_variants(words, counts, args.float32_matmul_precision)
    labels = [variant.label for variant in variants]
    reference = args.reference or ("dense_equal" if "dense_equal" in labels else labels[0])
    if reference not in labels:
        refuse(f"--reference {reference}: choose from --variants, here {', '.join(labels)}")
    common.prepare(args)
    text = BatchSize(args.tokens, args.fixed_length)
    load = TrainingLoad(
        args.arch, args.vocab_size, text, args.full_step, args.dtype,
        common.model_settings(args.model or ""),
    )
    report = bench_train(
        variants, reference, load, Steps(args.warm_up, args.repeats), args.device,
        pairs_in_flag(args),
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
        if colon and precision not in PRECISIONS:
            refuse(f"--variants {word}: choose a precision from {', '.join(PRECISIONS)}")
    return words


def table(report: Dict[str, Any]) -> str:
    """Return the report as text."""
    full = report["settings"]["full_step"]
    width = max(18, *(len(label) + 2 for label in report["variants"]))
    lines = [
        f"{'variant':{width}}{'s/step':>9}{'spread':>8}{'tokens/s':>10}{'speed':>7}{'warm-up':>10}"
        f"{'GFLOP':>9}{'weights':>11}{'memory':>11}"
        + (f"{'forward+backward':>18}{'update':>16}" if full else "")
    ]
    for label, row in report["variants"].items():
        lines.append(f"{label:{width}}" + (line(row) if row["fits"] else "  does not fit memory"))
    lines.append(
        f"speed: relative to {report['reference']}; {report['padding']:.1%} of positions are "
        "padding; warm-up: tokens/s of the first steps"
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
        f"{common.ratio(row['speed_of_reference']):>7}{row['warm_up_tokens_per_second']:10.0f}"
        f"{row['flops'] / 1e9:9.2f}{row['weight_bytes'] / 1e6:8.1f} MB"
        f"{row['process_bytes'] / 1e6:8.1f} MB{phases}"
    )
