"""Sequence-level distillation: translate training data with a teacher, for a student to learn from.

Writes a folder of binarized data in which the training set of each direction is its sources with
the teacher's translations; dictionaries, validation and test sets stay as they are. Run again after
a kill, it goes on where it was; the folder appears when it is whole.
`torchrun --nproc_per_node N --no-python taskmoe distill ...` translates on N ranks.
"""

import argparse

from . import translating
from .flags import pairs_in_flag, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    translating.add_data(parser, "checkpoint of the teacher", "new folder of data")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all that the teacher was trained on)",
    )
    translating.add_search(parser, beam=4)
    translating.add_batching(parser)
    parser.add_argument(
        "--chunk-sentences", type=int, default=5000, metavar="N",
        help="sentences that are translated and stored together: a killed run loses no more "
        "(default: 5000)",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..distillation.distill import distill
    from ..errors import refuse
    from ..evaluation.translate import Batching

    if args.chunk_sentences < 1:
        refuse(f"--chunk-sentences {args.chunk_sentences}: give 1 or more")
    distill(
        args.data,
        args.path,
        args.out,
        pairs_in_flag(args),
        translating.search_of(args),
        Batching(args.max_tokens, args.batch_size),
        args.cpu,
        args.chunk_sentences,
    )
