"""Measure throughput on random weights and tokens: no trained model is needed.

train: forward, loss and backward of whole models, against a dense model of the same computation.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["train"], help="what to measure")
    parser.add_argument("--arch", choices=["tiny", "base", "big"], default="base", help="size")
    parser.add_argument("--moe-expert-count", type=int, default=32, metavar="E", help="default: 32")
    parser.add_argument("--tokens", type=int, default=4096, help="in a batch; default: 4096")
    parser.add_argument("--length", type=int, default=32, help="of a sentence; default: 32")
    parser.add_argument("--vocab-size", type=int, default=8000, help="words; default: 8000")
    parser.add_argument(
        "--variants", default="dense_equal,target_target,token_token,dense",
        help="comma-separated: dense, dense_equal, target_target, token_token, token_target, "
        "pair_pair, sentence_sentence",
    )
    parser.add_argument(
        "--lang-pairs", default="en-de,de-en,en-fr,fr-en,en-ru,ru-en,en-zh,zh-en",
        help="tasks among which sentences are shared out",
    )
    parser.add_argument("--repeats", type=int, default=7, help="measured steps; default: 7")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--out", metavar="FILE.json", help="write the measurements here")


def run(args: argparse.Namespace) -> None:
    import torch

    from ..benchmarks import measure
    from ..benchmarks.train_step import VARIANTS, Load, bench_train
    from ..errors import refuse

    if args.device == "cuda" and not torch.cuda.is_available():
        refuse("--device cuda: this machine has no GPU that torch can use")
    if args.repeats < 2 or args.tokens < args.length or args.length < 1:
        refuse("--repeats 2 or more, --length 1 or more, and --tokens for at least one sentence")
    variants = args.variants.split(",")
    for name in variants:
        if name not in VARIANTS:
            refuse(f"--variants {name}: choose from {', '.join(VARIANTS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    load = Load(args.arch, args.moe_expert_count, args.vocab_size, args.tokens, args.length)
    report = bench_train(variants, load, args.repeats, args.device, args.lang_pairs.split(","))
    reference = report["reference"]
    print(f"{'variant':20}{'s/step':>9}{'spread':>8}{'tokens/s':>10}  speed of {reference}")
    for name, row in report["variants"].items():
        speed = row["speed_of_reference"]
        print(
            f"{name:20}{row['seconds']:9.3f}{row['spread']:8.1%}{row['tokens_per_second']:10.0f}"
            f"{'-' if speed is None else f'{speed:.2f}':>10}"
        )
    if args.out:
        measure.save(args.out, report)
