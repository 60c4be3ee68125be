"""Prepare the demo's corpus for fairseq: split, SentencePiece, binarize.

Writes text/{train,valid,test}.PAIR.{en,XX}, spm.model, dict.txt and data-bin/ to OUT. Finished work
is skipped.
"""

import argparse
import csv
import lzma
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # preprocess/ is not installed

from examples.demo import split  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402
from preprocess import binarize, sentencepiece_model  # noqa: E402
from preprocess.corpus import SPLITS  # noqa: E402
from preprocess.stages import run_stage  # noqa: E402
from preprocess.text_files import write_lines  # noqa: E402

CORPUS = Path(__file__).parent / "corpus" / "demo.tsv.xz"
LANGUAGES = ("de", "ru", "zh")
PAIRS = tuple(f"en-{language}" for language in LANGUAGES)
VOCAB_SIZE = 4000
SPLIT_SETTINGS = {
    "num_valid": 200,
    "num_test": 250,
    "max_cost": 8,  # a larger one drops more training text; a smaller one leaves unusual sentences
    "seed": 1,
}
# ten minutes of training are not enough for long sentences; most strings are short
MAX_TRAIN_WORDS = 10
HELD_OUT_WORDS = range(4, 11)
# rarer words cannot be learned
MIN_WORD_COUNT = 4


def read_corpus(path: Path) -> Dict[str, Dict[str, str]]:
    """Return the translations of every English string by language."""
    with lzma.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
        return {
            row["en"]: {language: row[language] for language in LANGUAGES if row[language]}
            for row in rows
        }


def may_be_held_out(english: str, translations: Dict[str, str]) -> bool:
    """Return whether a string can be a validation or test sentence of all languages."""
    num_words = len(english.split())
    return (
        len(translations) == len(LANGUAGES)
        and num_words in HELD_OUT_WORDS
        # without "and/or" and single dashes, all ways to count words agree
        and all(len(split.split_words(word)) == 1 for word in english.split())
    )


def choose_split(corpus: Dict[str, Dict[str, str]]) -> split.Split:
    """Split the short strings of frequent words, which can be learned in ten minutes."""
    short = [english for english in corpus if len(english.split()) <= MAX_TRAIN_WORDS]
    trainable = split.of_common_words(short, MIN_WORD_COUNT)
    eligible = {english for english in trainable if may_be_held_out(english, corpus[english])}
    return split.split_strings(trainable, eligible, **SPLIT_SETTINGS)


def write_text(folder: Path) -> None:
    """Write the raw text of all pairs and splits into folder, one sentence per line."""
    corpus = read_corpus(CORPUS)
    chosen = choose_split(corpus)
    shutil.rmtree(folder, ignore_errors=True)
    print(
        f"dropped {len(chosen.dropped)} training strings near held-out sentences", file=sys.stderr
    )
    for name, strings in (("train", chosen.train), ("valid", chosen.valid), ("test", chosen.test)):
        for language in LANGUAGES:
            translated = [string for string in strings if language in corpus[string]]
            prefix = f"{name}.en-{language}"
            write_lines(folder / f"{prefix}.en", translated)
            write_lines(folder / f"{prefix}.{language}", [corpus[s][language] for s in translated])
            print(f"{prefix}: {len(translated)} sentence pairs", file=sys.stderr)


def text_files(folder: Path, splits: Sequence[str]) -> List[Path]:
    return [
        folder / f"{split}.{pair}.{side}"
        for split in splits
        for pair in PAIRS
        for side in pair.split("-")
    ]


def prepare(out: Path) -> None:
    text, data = out / "text", out / "data-bin"
    model, dictionary = out / "spm.model", out / "dict.txt"
    stamps = out / "stages"
    split_settings = {
        "languages": LANGUAGES,
        "max_train_words": MAX_TRAIN_WORDS,
        "held_out_words": list(HELD_OUT_WORDS),
        "min_word_count": MIN_WORD_COUNT,
        **SPLIT_SETTINGS,
    }
    run_stage(
        stamps / "split.txt",
        lambda: write_text(text),
        settings=split_settings,
        inputs=[CORPUS],
        outputs=text_files(text, SPLITS),
    )
    # English of one pair only: the pairs have nearly the same English sentences
    training = ["en=" + str(text / "train.en-de.en")]
    training += [f"{language}={text / f'train.en-{language}.{language}'}" for language in LANGUAGES]
    run_stage(
        stamps / "sentencepiece.txt",
        lambda: sentencepiece_model.main(
            [*training, "--out", str(out), "--vocab-size", str(VOCAB_SIZE), "--overwrite"]
        ),
        settings={"vocab_size": VOCAB_SIZE},
        inputs=text_files(text, ["train"]),
        outputs=[model, dictionary],
    )
    run_stage(
        stamps / "binarize.txt",
        lambda: binarize.binarize(text, PAIRS, model, dictionary, data),
        settings={"pairs": PAIRS},
        inputs=[model, dictionary, *text_files(text, SPLITS)],
        outputs=[data],
    )


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder")
    prepare(parser.parse_args(argv).out)


if __name__ == "__main__":
    with command():
        main()
