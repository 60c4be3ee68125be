"""Merge the shards that the ranks of one run have saved into one ordinary checkpoint.

    taskmoe consolidate checkpoints/checkpoint_last-rank-0.pt --out checkpoints/whole.pt
"""

import argparse

from .arguments import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="SHARD",
        help="one of the shards, DIR/checkpoint_last-rank-N.pt, or their common name, "
        "DIR/checkpoint_last.pt",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="new checkpoint")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..checkpoint.convert_shards import consolidate

    consolidate(args.checkpoint, args.out)
