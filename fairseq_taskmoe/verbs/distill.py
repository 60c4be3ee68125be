"""Sequence-level distillation: translate training data with a teacher, for a student to learn from.

Writes a folder of binarized data in which the training set of each direction is its sources with
the teacher's translations; dictionaries, validation and test sets stay as they are. Run again after
a kill, it goes on where it was; the folder appears when it is whole.
`torchrun --nproc_per_node N --no-python taskmoe distill ...` translates on N ranks.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="folder of fairseq's binarized data")
    parser.add_argument("--path", required=True, metavar="CKPT", help="checkpoint of the teacher")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder of data")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all that the teacher was trained on)",
    )
    parser.add_argument("--beam", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty; default: 1")
    parser.add_argument(
        "--max-len-a", type=float, default=0.0, help="at most a * source length + b tokens"
    )
    parser.add_argument("--max-len-b", type=int, default=200, help="default: 0 and 200")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="in a batch; default: 4000; on a GPU 12000"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="sentences in a batch")
    parser.add_argument(
        "--chunk-sentences", type=int, default=5000, metavar="N",
        help="sentences that are translated and stored together: a killed run loses no more "
        "(default: 5000)",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def run(args: argparse.Namespace) -> None:
    from ..errors import refuse
    from ..evaluation.distill import Search, distill
    from ..evaluation.translate import Batching

    for flag in ("beam", "chunk_sentences"):
        if getattr(args, flag) < 1:
            refuse(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give 1 or more")
    distill(
        args.data,
        args.path,
        args.out,
        args.lang_pairs.split(",") if args.lang_pairs else None,
        Search(args.beam, args.lenpen, args.max_len_a, args.max_len_b, args.chunk_sentences),
        Batching(args.max_tokens, args.batch_size),
        args.cpu,
    )
