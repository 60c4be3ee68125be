"""Split a checkpoint, or shards for another number of ranks, into shards for a number of ranks.

    taskmoe reshard checkpoints/checkpoint_last.pt --ranks 8 --out resharded/checkpoint_last.pt
"""

import argparse

from .arguments import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="ordinary checkpoint; one of the shards, or their common name without -rank-N",
    )
    parser.add_argument(
        "--ranks", required=True, type=int, metavar="W", help="number of ranks"
    )
    parser.add_argument(
        "--expert-parallel-size", "--moe-expert-parallel-size", type=int, metavar="N",
        help="ranks that share one copy of the experts (default: the largest possible number)",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE",
        help="DIR/checkpoint_last.pt for DIR/checkpoint_last-rank-0.pt and so on",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..checkpoint.convert_shards import reshard

    reshard(args.checkpoint, args.ranks, args.out, args.expert_parallel_size)
