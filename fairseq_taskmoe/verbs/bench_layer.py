"""Measure one MoE layer, forward and backward, against a dense network of the same computation.

Speed and memory, beside the layers of fairscale and Hugging Face where these are installed. FLOPs
are those that torch counts: a peer that computes more, or less, shows there.
"""

import argparse

from . import measuring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--moe-expert-count", type=int, default=32, metavar="E", help="default: 32")
    parser.add_argument("--embed-dim", type=int, default=512, metavar="C", help="default: 512")
    parser.add_argument("--ffn-dim", type=int, default=2048, metavar="F", help="default: 2048")
    parser.add_argument("--moe-top-k", type=int, default=2, metavar="K", help="default: 2")
    parser.add_argument("--tokens", type=int, default=4096, help="in a batch; default: 4096")
    parser.add_argument("--length", type=int, default=32, help="of a sentence; default: 32")
    parser.add_argument("--tasks", type=int, default=8, metavar="N", help="in a batch; default: 8")
    parser.add_argument(
        "--variants", default="dense,token,sentence,task",
        help="comma-separated: dense, token, sentence, task, fairscale, nllb, switch",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    measuring.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from ..benchmarks import measure
    from ..benchmarks.layer import REFERENCE, VARIANTS, Shape, bench_layer
    from ..errors import refuse

    measuring.check_device(args)
    if args.repeats < 2 or args.length < 1 or args.tokens < args.length * args.tasks:
        refuse("--repeats 2 or more, --length 1 or more, and --tokens for a sentence of each task")
    if not 1 <= args.moe_top_k <= args.moe_expert_count:
        refuse(f"--moe-top-k {args.moe_top_k}: give 1 to --moe-expert-count")
    variants = measuring.chosen_variants(args, VARIANTS)
    if REFERENCE not in variants:
        variants.insert(0, REFERENCE)
    measuring.prepare(args)
    shape = Shape(
        args.moe_expert_count, args.embed_dim, args.ffn_dim, args.moe_top_k, args.tokens,
        args.length, args.tasks, args.dtype,
    )
    report = bench_layer(variants, shape, args.repeats, args.device)
    print(
        f"{'variant':12}{'s/step':>9}{'spread':>8}{'tokens/s':>10}{'speed':>7}{'GFLOP':>8}"
        f"{'memory':>9}"
    )
    for name, row in report["variants"].items():
        print(
            f"{name:12}{row['seconds']:9.3f}{row['spread']:8.1%}{row['tokens_per_second']:10.0f}"
            f"{row['speed_of_reference']:7.2f}{row['flops'] / 1e9:8.1f}"
            f"{row['extra_bytes'] / 2**20:6.0f} MB"
        )
    print(f"speed: of {REFERENCE}; memory: at the peak, beyond the gradients of its parameters")
    for name, reason in report["skipped"].items():
        print(f"{name}: skipped, {reason}")
    if args.out:
        measure.save(args.out, report)
