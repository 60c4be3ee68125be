"""Encode parallel text with SentencePiece and binarize it with fairseq-preprocess.

TEXT holds `{train,valid,test}.en-de.{en,de}`; DATA gets fairseq's files and one dictionary, the
same under every language's name. One binarization of a pair serves both of its directions.
"""

import argparse
import itertools
import logging
import shutil
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence

import sentencepiece

from fairseq_taskmoe.errors import refuse
from preprocess.text_files import (
    read_lines,
    refuse_existing,
    refuse_unequal_lengths,
    write_lines,
)

SPLITS = ("train", "valid", "test")


def encode_line(processor: sentencepiece.SentencePieceProcessor, line: str) -> str:
    """Split a sentence into pieces, joined by spaces."""
    # fairseq reads in text mode and splits at whitespace of every kind: leave it spaces only
    return " ".join(processor.encode_as_pieces(" ".join(line.split())))


def present_splits(text: Path, pair: str) -> List[str]:
    """Name the splits that TEXT has of pair, refusing a half or a missing one."""
    found = []
    for split in SPLITS:
        sides = [text / f"{split}.{pair}.{language}" for language in pair.split("-")]
        if all(side.exists() for side in sides):
            if refuse_unequal_lengths(*sides) == 0:
                refuse(f"{sides[0]}: no lines")
            found.append(split)
        elif any(side.exists() for side in sides):
            refuse(f"{text}: {split}.{pair} has one side only")
    if not found:
        refuse(f"{text}: no {', '.join(SPLITS)} of {pair}, as in train.{pair}.{pair.split('-')[0]}")
    return found


def binarize_pair(
    encoded: Path, splits: Sequence[str], pair: str, dictionary: Path, data: Path
) -> None:
    """Call fairseq-preprocess for one pair and check that every line came through."""
    # imported here, as it takes seconds: not before the arguments were found good
    from fairseq import options
    from fairseq.data.indexed_dataset import MMapIndexedDataset
    from fairseq_cli import preprocess

    logging.getLogger("fairseq_cli.preprocess").setLevel(logging.WARNING)
    source, target = pair.split("-")
    # not --joined-dictionary: with it fairseq refuses a language that another pair brought
    arguments = ["-s", source, "-t", target, "--destdir", str(data), "--workers", "1"]
    arguments += ["--srcdict", str(dictionary), "--tgtdict", str(dictionary)]
    for split in splits:
        arguments += [f"--{split}pref", str(encoded / f"{split}.{pair}")]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    for split in splits:
        for language in (source, target):
            name = f"{split}.{pair}.{language}"
            stored = MMapIndexedDataset(str(data / name))
            lines = read_lines(encoded / name)
            assert len(stored) == len(lines), f"{name}: {len(lines)} lines, {len(stored)} stored"
            print(f"{name}: {len(stored)} sentences, {int(stored.sizes.sum())} tokens")


def binarize(text: Path, pairs: Sequence[str], model: Path, dictionary: Path, data: Path) -> None:
    """Make DATA from TEXT; it appears under its name when all pairs are in it."""
    splits = {pair: present_splits(text, pair) for pair in pairs}
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    data.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data.parent, prefix=data.name + ".partial.") as name:
        encoded, partial = Path(name) / "encoded", Path(name) / "data"
        for pair in pairs:
            for split, side in itertools.product(splits[pair], pair.split("-")):
                file = f"{split}.{pair}.{side}"
                lines = (encode_line(processor, line) for line in read_lines(text / file))
                write_lines(encoded / file, lines)
            binarize_pair(encoded, splits[pair], pair, dictionary, partial)
        if data.exists():
            shutil.rmtree(data)
        partial.rename(data)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="folder with {train,valid,test}.SRC-TGT.{SRC,TGT}")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="SRC-TGT")
    parser.add_argument("--sentencepiece-model", type=Path, required=True)
    parser.add_argument("--dict", type=Path, required=True, help="the dict.txt made with the model")
    parser.add_argument("--out", type=Path, required=True, help="folder DATA to write")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    for pair in args.pairs:
        if len(pair.split("-")) != 2 or not all(pair.split("-")):
            refuse(f"--pairs {pair}: expected SRC-TGT, as in en-de")
    for path in (args.sentencepiece_model, args.dict):
        if not path.is_file():
            refuse(f"{path}: no such file")
    refuse_existing([args.out], args.overwrite)
    binarize(args.text, args.pairs, args.sentencepiece_model, args.dict, args.out)


if __name__ == "__main__":
    main()
