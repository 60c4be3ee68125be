"""From the shipped corpus to fairseq's data: split, SentencePiece, binarize.

Leaves in OUT: text/{train,valid,test}.PAIR.{en,XX}, spm.model, dict.txt and data-bin/. What is
done already is skipped.
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
    "max_cost": 8,  # more would cost training text, fewer would leave odd sentences only
    "seed": 1,
}
# ten minutes do not suffice to learn long sentences; short ones are the commonest
MAX_TRAIN_WORDS = 10
HELD_OUT_WORDS = range(4, 11)
# a word that is in a handful of strings is seen too seldom to be learnt
MIN_WORD_COUNT = 4


def read_corpus(path: Path) -> Dict[str, Dict[str, str]]:
    """Map every English string to its translations by language."""
    with lzma.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
        return {
            row["en"]: {language: row[language] for language in LANGUAGES if row[language]}
            for row in rows
        }


def may_be_held_out(english: str, translations: Dict[str, str]) -> bool:
    """Tell whether a string is a sentence to test on, in all languages."""
    num_words = len(english.split())
    return (
        len(translations) == len(LANGUAGES)
        and num_words in HELD_OUT_WORDS
        # no "and/or" and no lone dash: overlap is then the same however words are counted
        and all(len(split.split_words(word)) == 1 for word in english.split())
    )


def choose_split(corpus: Dict[str, Dict[str, str]]) -> split.Split:
    """Choose from the short strings of common words: what can be learnt in ten minutes."""
    short = [english for english in corpus if len(english.split()) <= MAX_TRAIN_WORDS]
    trainable = split.of_common_words(short, MIN_WORD_COUNT)
    eligible = {english for english in trainable if may_be_held_out(english, corpus[english])}
    return split.split_strings(trainable, eligible, **SPLIT_SETTINGS)


def write_text(folder: Path) -> None:
    """Write the raw text of all pairs and splits into folder, a sentence a line."""
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
    choice = {
        "languages": LANGUAGES,
        "max_train_words": MAX_TRAIN_WORDS,
        "held_out_words": list(HELD_OUT_WORDS),
        "min_word_count": MIN_WORD_COUNT,
        **SPLIT_SETTINGS,
    }
    run_stage(
        stamps / "split.txt",
        lambda: write_text(text),
        settings=choice,
        inputs=[CORPUS],
        outputs=text_files(text, SPLITS),
    )
    # English once: its sentences are nearly the same in every pair
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
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write")
    prepare(parser.parse_args(argv).out)


if __name__ == "__main__":
    with command():
        main()
