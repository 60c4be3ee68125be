"""Average the weights of checkpoints, experts included.

    taskmoe average checkpoints/checkpoint*_5000.pt checkpoints/checkpoint_last.pt --out mean.pt
"""

import argparse

from .arguments import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CKPT", help="checkpoints of one model, each in one file"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="new checkpoint")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..checkpoint.average import average

    average(args.checkpoints, args.out)
