"""Cut out of a Task-MoE checkpoint the dense model that serves one language pair."""

import argparse

from ..errors import refuse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint of transformer_task_moe, in one file")
    parser.add_argument("--lang-pair", metavar="PAIR", help="direction to cut out: en-de")
    parser.add_argument("-s", "--source-lang", metavar="LANG", help="its source language")
    parser.add_argument("-t", "--target-lang", metavar="LANG", help="its target language")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument(
        "--format",
        choices=["fairseq", "taskmoe"],
        default="fairseq",
        help="fairseq: its own transformer, loads without this plugin; taskmoe: folds the halves "
        "that route by task and keeps the others",
    )
    parser.add_argument(
        "--sentencepiece-model",
        metavar="FILE",
        help="put beside the model (default: the run's own, or the one beside its data)",
    )


def run(args: argparse.Namespace) -> None:
    named = args.source_lang and args.target_lang
    if bool(args.lang_pair) == bool(args.source_lang or args.target_lang) or (
        not args.lang_pair and not named
    ):
        refuse("name the direction, with --lang-pair en-de or with -s en -t de")
    lang_pair = args.lang_pair or f"{args.source_lang}-{args.target_lang}"
    if len(lang_pair.split("-")) != 2:
        refuse(f"--lang-pair {lang_pair}: write it as en-de")

    from .. import register  # noqa: F401
    from ..checkpoint.subnet_folder import extract

    extract(args.checkpoint, lang_pair, args.out, args.format, args.sentencepiece_model)
    print(f"{args.out}: sub-network {lang_pair}; its README.md has the command that runs it")
