"""Translate and score all directions of a binarized test set, with the model loaded once.

Writes hypotheses, results.json and results.md; what an interrupted run has translated is kept.
A model that does not fit one device: `torchrun --nproc_per_node N --no-python taskmoe evaluate ...`
spreads its experts over N ranks, each of which translates a share of the sentences.
"""

import argparse

from . import translating
from .flags import pairs_in_flag, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    translating.add_data(parser, "checkpoint to evaluate", "folder for the results")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions, trained or zero-shot (default: all trained ones)",
    )
    parser.add_argument(
        "--zero-shot-pairs", metavar="PAIRS",
        help="further directions, as de-fr,fr-de; where the data has none of their own, the "
        "sentences are taken that two sets translate from the same English",
    )
    parser.add_argument(
        "--languages", metavar="FILE",
        help="YAML of `de: {train_pairs: 4508785, class: high}`, for an average over each class",
    )
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    translating.add_search(parser, beam=5)
    translating.add_batching(parser, "; with --max-len-a always 12000, as fairseq-generate")
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true",
        help="translate sentences that are too long for the model to an empty line",
    )
    parser.add_argument(
        "--references", metavar="DIR",
        help="raw text DIR/SPLIT.en-de.de, and .en where it is there (default: detokenized from "
        "the data)",
    )
    parser.add_argument(
        "--tokenize", metavar="NAME",
        help="sacreBLEU's tokenizer for all directions but Chinese, as `intl` in the paper "
        "(default: 13a, or the language's own)",
    )
    parser.add_argument(
        "--floors", action="store_true",
        help="also score copies of the source, and translations of the nearest training sentence",
    )
    parser.add_argument(
        "--no-folding", action="store_true",
        help="run task-routed layers through the router, for checks",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..evaluation.evaluate import Settings, evaluate
    from ..evaluation.results import terminal_table
    from ..evaluation.translate import Batching
    from ..metrics.languages_file import read_languages

    resources = None
    if args.languages:
        languages = read_languages(args.languages)
        resources = {code: language.resources for code, language in languages.items()}
    settings = Settings(args.gen_subset, translating.search_of(args), args.tokenize)
    results = evaluate(
        args.data,
        args.path,
        args.out,
        pairs_in_flag(args),
        settings,
        Batching(args.max_tokens, args.batch_size, args.skip_invalid_size_inputs_valid_test),
        args.references,
        args.floors,
        args.cpu,
        not args.no_folding,
        pairs_in_flag(args, "zero_shot_pairs"),
        resources,
    )
    if results is not None:  # on rank 0
        print(terminal_table(results))
