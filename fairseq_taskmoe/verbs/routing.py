"""Show which experts each language pair uses, in every MoE layer.

Reads the sources and references of a binarized test set with the model, and writes routing.npz,
routing.tsv and, with matplotlib, the heat-maps routing.png. Both tables have, for each language
pair and expert: its share of the choices, how many tokens chose it first, and with which mean
probability.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="folder of fairseq's binarized data")
    parser.add_argument("--path", required=True, metavar="CKPT", help="checkpoint to look into")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the results")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions (default: all trained ones that the data folder has)",
    )
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    parser.add_argument(
        "--max-tokens", type=int, default=12000, metavar="N", help="in a batch; default: 12000"
    )
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true",
        help="take sources that are too long for the model for empty ones",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def run(args: argparse.Namespace) -> None:
    from ..errors import refuse

    if args.max_tokens < 1:
        refuse(f"--max-tokens {args.max_tokens}: give 1 or more")

    from ..analysis.routing_statistics import write_routing
    from ..evaluation.translate import Batching

    written = write_routing(
        args.data,
        args.path,
        args.out,
        args.lang_pairs.split(",") if args.lang_pairs else None,
        args.gen_subset,
        Batching(args.max_tokens, None, args.skip_invalid_size_inputs_valid_test),
        args.cpu,
    )
    print(f"{args.out}: {', '.join(written)}")
    if "routing.png" not in written:
        print("no figure without matplotlib: pip install fairseq-taskmoe[plot]")
