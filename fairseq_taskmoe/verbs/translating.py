"""The flags of the verbs that translate whole sets of binarized data."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.translate import Search


def add_data(parser: argparse.ArgumentParser, checkpoint: str, out: str) -> None:
    parser.add_argument("data", help="folder of fairseq's binarized data")
    parser.add_argument("--path", required=True, metavar="CKPT", help=checkpoint)
    parser.add_argument("--out", required=True, metavar="DIR", help=out)


def add_search(parser: argparse.ArgumentParser, beam: int) -> None:
    parser.add_argument("--beam", type=int, default=beam, metavar="N", help=f"default: {beam}")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty; default: 1")
    parser.add_argument(
        "--max-len-a", type=float, default=0.0, help="at most a * source length + b tokens"
    )
    parser.add_argument("--max-len-b", type=int, default=200, help="default: 0 and 200")


def search_of(args: argparse.Namespace) -> "Search":
    from ..errors import refuse
    from ..evaluation.translate import Search

    if args.beam < 1:
        refuse(f"--beam {args.beam}: give 1 or more")
    return Search(args.beam, args.lenpen, args.max_len_a, args.max_len_b)


def add_batching(parser: argparse.ArgumentParser, note: str = "") -> None:
    parser.add_argument(
        "--max-tokens", type=int, metavar="N",
        help=f"in a batch; default: 4000, on a GPU 12000{note}",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="sentences in a batch")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
