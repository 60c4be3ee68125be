"""Make a checkpoint of this plugin out of a model of Hugging Face: M2M100, NLLB-200, Marian.

The new folder holds a dense checkpoint (model.pt), its dictionary and its SentencePiece model. It
translates, can be trained further, and is what `taskmoe upcycle` starts from:

    taskmoe import-hf nllb-200-distilled-600M --lang-pairs eng_Latn-deu_Latn --out nllb
    taskmoe upcycle nllb/model.pt --out upcycled.pt --moe-expert-count 16
"""

import argparse

from ..errors import refuse
from .arguments import pairs_in_flag, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="with config.json, weights and tokenizer of transformers")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--lang-pairs", required=True, metavar="PAIRS",
        help="to translate or train, comma-separated or a file, in the model's own codes: "
        "eng_Latn-deu_Latn; the tags of its other languages are kept",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)

    from .. import register  # noqa: F401
    from ..conversion.import_hf import import_hf

    pairs = pairs_in_flag(args)
    if not pairs:
        refuse("--lang-pairs: give at least one language pair")
    dense = import_hf(args.folder, pairs, args.out)
    print(f"{args.out}: {len(dense.words):,} words, {len(dense.tags.langs)} languages with tags")
