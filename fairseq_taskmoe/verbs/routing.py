"""Measure which experts each language pair uses, in every MoE layer.

The encoder reads the sources of a binarized test set, and the decoder the references, or the
model's own translations with --decode. Writes the tables routing.npz and .tsv (each expert's share
of a pair's choices), similarity.tsv (similarity of the pairs' routing), summary.tsv,
load.tsv and experts.tsv, and figures if matplotlib is installed; docs/analyse-routing.md describes
them.
"""

import argparse

from ..files import clean_up_when_terminated
from .arguments import check_least, pairs_in_flag, refuse_empty

BEAM = 5  # as in taskmoe evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", help="folder of fairseq's binarized data")
    parser.add_argument("--path", metavar="CKPT", help="checkpoint")
    parser.add_argument("--out", metavar="DIR", help="new folder for the results")
    parser.add_argument(
        "--plot", metavar="DIR", help="only draw the figures of such a folder again"
    )
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all trained ones in the data folder)",
    )
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    parser.add_argument(
        "--multi-parallel", action="store_true",
        help="use only sentences that all pairs have in their common language, so that pairs "
        "differ in language but not in content",
    )
    parser.add_argument(
        "--decode", action="store_true",
        help="measure the decoder on the model's own translations instead of references",
    )
    parser.add_argument(
        "--beam", type=int, metavar="N", help=f"width of the search with --decode; default: {BEAM}"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N",
        help="tokens in a batch; default: 4000, on a GPU 12000. Results depend on it only if "
        "experts have a capacity",
    )
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true",
        help="use an empty source for sentences that are too long for the model",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..errors import refuse

    if args.plot:
        if args.data or args.path or args.out:
            refuse(f"--plot {args.plot} takes no data, --path or --out: it reads existing tables")
        from pathlib import Path

        from ..routing.figures import draw_figures

        print(f"{args.plot}: {', '.join(draw_figures(Path(args.plot)))}")
        return
    given = {"the data folder": args.data, "--path": args.path, "--out": args.out}
    for name, value in given.items():
        if not value:
            refuse(f"{name} is missing: taskmoe routing DATA --path CKPT --out DIR")
    if args.beam is not None and not args.decode:
        refuse(f"--beam {args.beam}: needs --decode")
    check_least(args, max_tokens=1, beam=1)

    clean_up_when_terminated()
    from ..evaluation.translate import Batching
    from ..routing.collect import write_routing

    written = write_routing(
        args.data, args.path, args.out, pairs_in_flag(args), args.gen_subset,
        Batching(args.max_tokens, None, args.skip_invalid_size_inputs_valid_test), args.cpu,
        (args.beam or BEAM) if args.decode else 0, args.multi_parallel,
    )
    print(f"{args.out}: {', '.join(written)}")
    if "routing.png" not in written:
        print("no figures without matplotlib: pip install fairseq-taskmoe[plot]")
