"""Prepare the demo's corpus for fairseq: split, SentencePiece, binarize."""

import argparse
import lzma
import sys
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # preprocess/ is not installed

from examples.demo.split import Phrase, Split, split_phrases  # noqa: E402
from examples.demo.stages import Progress, quiet  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402
from fairseq_taskmoe.text_tables import write_tsv  # noqa: E402
from preprocess import binarize, sentencepiece_model  # noqa: E402
from preprocess.text_files import write_lines  # noqa: E402

CORPUS = Path(__file__).parent / "corpus" / "cldr16.tsv.xz"
LANGUAGES = tuple("en cs fr ru zh es fi de et lv lt ro hi kk tr gu".split())
COLUMNS = ("kind", "combinations", *LANGUAGES)
PAIRS = tuple(f"en-{language}" for language in LANGUAGES[1:])
DIRECTIONS = (*(f"{language}-en" for language in LANGUAGES[1:]), *PAIRS)
VOCAB_SIZE = 2500
SPLIT = {"num_valid": 50, "num_test": 100, "seed": 1}
SETTINGS = {"split": SPLIT, "vocab_size": VOCAB_SIZE}


def read_corpus() -> List[Phrase]:
    header, *rows = (line.split("\t") for line in corpus_text().splitlines())
    assert header == list(COLUMNS)
    return [
        Phrase(kind, set(parts.split()), dict(zip(LANGUAGES, texts, strict=True)))
        for kind, parts, *texts in rows
    ]


def corpus_text() -> str:
    return lzma.decompress(CORPUS.read_bytes()).decode()


def write_text(folder: Path) -> Split:
    """Write {train,valid,test}.PAIR.LANGUAGE, and test.tsv: the part and kind of each test line."""
    split = split_phrases(read_corpus(), **SPLIT)
    test = [*split.random, *split.composed]
    for name, phrases in (("train", split.train), ("valid", split.valid), ("test", test)):
        for pair in PAIRS:
            for language in pair.split("-"):
                path = folder / f"{name}.{pair}.{language}"
                write_lines(path, [phrase.texts[language] for phrase in phrases])
    parts = [("random", phrase.kind) for phrase in split.random]
    parts += [("composed", phrase.kind) for phrase in split.composed]
    write_tsv(folder / "test.tsv", [("part", "kind"), *parts])
    return split


def prepare(out: Path) -> str:
    """Write text/, spm.model, dict.txt and data-bin/ to out."""
    text, model, dictionary = out / "text", out / "spm.model", out / "dict.txt"
    steps = Progress(3, "steps")
    with quiet():
        split = write_text(text)
        steps.show(1, "vocabulary")
        files = [f"en={text}/train.{PAIRS[0]}.en"]
        files += [f"{pair[3:]}={text}/train.{pair}.{pair[3:]}" for pair in PAIRS]
        size = ["--vocab-size", str(VOCAB_SIZE)]
        sentencepiece_model.main([*files, "--out", str(out), *size, "--overwrite"])
        steps.show(2, "binarize")
        binarize.binarize(text, PAIRS, model, dictionary, out / "data-bin")
    steps.close()
    return f"{len(split.train):,} phrases to train on, {SPLIT['num_test']} + {SPLIT['num_test']} " \
        f"to test, {len(PAIRS) + 1} languages"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder")
    with command():
        print(prepare(parser.parse_args().out))
