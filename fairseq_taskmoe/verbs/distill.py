"""Sequence-level distillation: translate training data with a teacher, to train a student.

Writes a folder of binarized data in which the training set of each direction has the teacher's
translations as targets; dictionaries, validation and test sets are unchanged. An interrupted run is
resumed by the same command; the folder appears when it is complete.
`torchrun --nproc_per_node N --no-python taskmoe distill ...` translates on N ranks.
"""

import argparse

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_data(parser, "checkpoint of the teacher", "new folder of data")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all that the teacher was trained on)",
    )
    arguments.add_search(parser, beam=4)
    arguments.add_batching(parser)
    parser.add_argument(
        "--chunk-sentences", type=int, default=5000, metavar="N",
        help="sentences that are translated and stored together; an interrupted run loses at most "
        "these (default: 5000)",
    )


def run(args: argparse.Namespace) -> None:
    arguments.refuse_empty(args)
    arguments.check_least(args, chunk_sentences=1)
    from ..distillation.distill import distill
    from ..evaluation.translate import Batching

    distill(
        args.data, args.path, args.out, arguments.pairs_in_flag(args), arguments.search_of(args),
        Batching(args.max_tokens, args.batch_size), args.cpu, args.chunk_sentences,
    )
