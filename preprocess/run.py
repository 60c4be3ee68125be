"""Prepare a corpus: clean, deduplicate, train one SentencePiece model, encode, binarize.

RAW holds train/PAIR/DATASET.{SRC,TGT} and {valid,test}/PAIR.{SRC,TGT}, plain or .gz. OUT gets
text/, spm.model, dict.txt, data-bin/, manifest.json and languages.yaml; OUT/work may be removed at
the end. Finished work is skipped; an interrupted step starts again at its data set.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Optional, Sequence

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths

from .cleaning.clean import MOST_REJECTED
from .config import Config, load_config
from .corpus import Corpus
from .sentencepiece_model import BadVocabulary
from .stages import only_run
from .steps import STEPS, Preparation, write_rejected


def prepare(
    config: Config, raw: Path, out: Path, workers: int = 1, steps: Sequence[str] = tuple(STEPS),
    rejected: Optional[Path] = None,
) -> None:
    """Run some of the steps on the corpus in raw; write examples of dropped pairs to rejected."""
    preparation = Preparation(config, Corpus(raw, out), workers)
    with only_run(preparation.corpus.work("lock")):
        for name, step in STEPS.items():
            if name in steps:
                step(preparation)
        if rejected:
            write_rejected(preparation, rejected)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file: README.md")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw text")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--steps", default=",".join(STEPS), help="steps to run, joined by commas (default: all)"
    )
    parser.add_argument(
        "--rejected", type=Path, metavar="DIR",
        help=f"write the first {MOST_REJECTED} pairs that each rule drops to DIR/PAIR.DATASET.tsv",
    )
    args = parser.parse_args(argv)
    check_paths(args)
    steps = args.steps.split(",")
    for step in steps:
        if step not in STEPS:
            refuse(f"--steps {step}: choose from {', '.join(STEPS)}")
    if args.workers < 1:
        refuse(f"--workers {args.workers}: must be 1 or more")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    warnings.simplefilter("ignore")  # of fairseq and its dependencies
    try:
        prepare(load_config(args.config), args.raw, args.out, args.workers, steps, args.rejected)
    except BadVocabulary as error:
        refuse(f"{args.config}: vocab_size: {error}")


if __name__ == "__main__":
    with command():
        main()
