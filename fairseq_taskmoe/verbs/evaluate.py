"""Translate and score all directions of a binarized test set, with the model loaded once.

Writes hypotheses, results.json and results.md. The same command resumes an interrupted run.
For a model that does not fit one device, `torchrun --nproc_per_node N --no-python taskmoe evaluate
...` distributes its experts over N ranks, each of which translates a part of the sentences.
"""

import argparse

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_data(parser, "checkpoint to evaluate", "folder for the results")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated directions, trained or zero-shot (default: all trained ones)",
    )
    parser.add_argument(
        "--zero-shot-pairs", metavar="PAIRS",
        help="further directions, such as de-fr,fr-de; without test data of their own, they get "
        "the sentences that have the same English side in two other test sets",
    )
    parser.add_argument(
        "--languages", metavar="FILE",
        help="YAML with lines such as `de: {train_pairs: 4508785, class: high}`, for an average "
        "over each class",
    )
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    arguments.add_search(parser, beam=5)
    arguments.add_batching(parser, "; with --max-len-a 12000, as in fairseq-generate")
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true",
        help="write an empty translation for sentences that are too long for the model",
    )
    parser.add_argument(
        "--references", metavar="DIR",
        help="folder of raw references DIR/SPLIT.en-de.de, with optional sources .en (default: "
        "references detokenized from the data)",
    )
    parser.add_argument(
        "--tokenize", metavar="NAME",
        help="sacreBLEU's tokenizer for all directions except Chinese, `intl` in the paper "
        "(default: 13a, or a special tokenizer of the language)",
    )
    parser.add_argument(
        "--floors", action="store_true",
        help="also score copies of the source, and translations of the nearest training sentence",
    )
    parser.add_argument(
        "--float32-matmul-precision", choices=arguments.PRECISIONS, default="highest",
        help="medium: matrix products in bfloat16 on CPUs with AVX512_BF16 or AMX, which changes "
        "some translations; high and medium: TF32 on a GPU; default: highest",
    )
    parser.add_argument(
        "--no-folding", action="store_true",
        help="run the router in task-routed layers, for checks",
    )


def run(args: argparse.Namespace) -> None:
    arguments.refuse_empty(args)
    from ..evaluation.evaluate import Settings, evaluate
    from ..evaluation.results import terminal_table
    from ..evaluation.translate import Batching
    from ..metrics.languages_file import read_languages

    resources = None
    if args.languages:
        languages = read_languages(args.languages)
        resources = {code: language.resources for code, language in languages.items()}
    settings = Settings(
        args.gen_subset, arguments.search_of(args), args.tokenize, args.float32_matmul_precision
    )
    results = evaluate(
        args.data, args.path, args.out, arguments.pairs_in_flag(args), settings,
        Batching(args.max_tokens, args.batch_size, args.skip_invalid_size_inputs_valid_test),
        args.references, args.floors, args.cpu, not args.no_folding,
        arguments.pairs_in_flag(args, "zero_shot_pairs"), resources,
    )
    if results is not None:  # on rank 0
        print(terminal_table(results))
