"""Show which experts each language pair uses, in every MoE layer.

The model reads the sources of a binarized test set and, in the decoder, the references or with
--decode its own translations. Writes tables: routing.npz and .tsv (each expert's share of a pair's
choices), similarity.npz and .tsv (how alike pairs are routed), summary.tsv, load.tsv, experts.tsv;
and with matplotlib figures, which --plot draws again. docs/analyse-routing.md explains them. An
interrupted run goes on with the pairs that are not done.
"""

import argparse

from ..files import clean_up_when_terminated
from .flags import pairs_in_flag, refuse_empty

BEAM = 5  # as taskmoe evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", help="folder of fairseq's binarized data")
    parser.add_argument("--path", metavar="CKPT", help="checkpoint to look into")
    parser.add_argument("--out", metavar="DIR", help="new folder for the results")
    parser.add_argument(
        "--plot", metavar="DIR", help="draw the figures of such a folder again, from its tables"
    )
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all trained ones that the data folder has)",
    )
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    parser.add_argument(
        "--multi-parallel", action="store_true",
        help="only sentences that all pairs have, by their side in the language that the pairs "
        "share: rows then differ in language and not in content",
    )
    parser.add_argument(
        "--decode", action="store_true",
        help="translate first: what the decoder does with its own output, not with references",
    )
    parser.add_argument(
        "--beam", type=int, metavar="N", help=f"width of the search with --decode; default: {BEAM}"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N",
        help="in a batch; default: 4000, on a GPU 12000. The results do not depend on it, unless "
        "experts have a capacity",
    )
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true",
        help="take sources that are too long for the model for empty ones",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..errors import refuse

    if args.plot:
        if args.data or args.path or args.out:
            refuse(f"--plot {args.plot} takes no data, no --path and no --out: it reads its tables")
        from pathlib import Path

        from ..routing.figures import draw_figures

        print(f"{args.plot}: {', '.join(draw_figures(Path(args.plot)))}")
        return
    given = {"the data folder": args.data, "--path": args.path, "--out": args.out}
    for name, value in given.items():
        if not value:
            refuse(f"{name} is missing: taskmoe routing DATA --path CKPT --out DIR")
    if args.max_tokens is not None and args.max_tokens < 1:
        refuse(f"--max-tokens {args.max_tokens}: give 1 or more")
    if args.beam is not None and (args.beam < 1 or not args.decode):
        refuse(f"--beam {args.beam}: " + ("give 1 or more" if args.decode else "needs --decode"))

    clean_up_when_terminated()
    from ..evaluation.translate import Batching
    from ..routing.collect import write_routing

    written = write_routing(
        args.data,
        args.path,
        args.out,
        pairs_in_flag(args),
        args.gen_subset,
        Batching(args.max_tokens, None, args.skip_invalid_size_inputs_valid_test),
        args.cpu,
        (args.beam or BEAM) if args.decode else 0,
        args.multi_parallel,
    )
    print(f"{args.out}: {', '.join(written)}")
    if "routing.png" not in written:
        print("no figures without matplotlib: pip install fairseq-taskmoe[plot]")
