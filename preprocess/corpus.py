"""Paths of a corpus.

RAW/train/en-de/DATASET.{en,de}    any number of data sets; plain, or .gz
RAW/{valid,test}/en-de.{en,de}
OUT/text/{train,valid,test}.en-de.{en,de}
OUT/spm.model, OUT/dict.txt, OUT/data-bin/
OUT/work/                          intermediate files of the steps
"""

from pathlib import Path
from typing import List, NamedTuple, Tuple

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.paths import check_path

SPLITS = ("train", "valid", "test")
EVAL_SPLITS = ("valid", "test")
Sides = Tuple[Path, Path]  # files of the source and the target language


class Dataset(NamedTuple):
    """A parallel text of one language pair."""

    name: str
    sides: Sides


class Corpus(NamedTuple):
    """The input and output folders of a corpus."""

    raw: Path
    out: Path

    def text(self, split: str, pair: str) -> Sides:
        """Return the clean text of a pair."""
        return text_files(self.out / "text", split, pair)

    def work(self, *parts: str) -> Path:
        return self.out.joinpath("work", *parts)

    def stamp(self, step: str, *parts: str) -> Path:
        """Return the file that marks a step as done for a data set or a pair."""
        return self.work("stages", ".".join([step, *parts]) + ".txt")

    def datasets(self, pair: str) -> List[Dataset]:
        """Return the training sets of a pair, sorted by name.

        Refuses a pair without training data, and a data set with one side only.
        """
        folder = self.raw / "train" / pair
        source, target = languages_of(pair)
        names = {
            name.removesuffix(f".{language}")
            for path in (folder.iterdir() if folder.is_dir() else ())
            for language in (source, target)
            if (name := path.name.removesuffix(".gz")).endswith(f".{language}")
        } - {""}
        if not names:
            refuse(f"{folder}: no training data, as in DATASET.{source} and DATASET.{target}")
        for name in names:
            check_path(folder / name)
        return [
            Dataset(name, (find_text(folder / f"{name}.{source}"),
                           find_text(folder / f"{name}.{target}")))
            for name in sorted(names)
        ]

    def raw_eval(self, split: str, pair: str) -> Sides:
        """Return the validation or test set of a pair; refuses a missing one."""
        source, target = languages_of(pair)
        folder = self.raw / split
        return find_text(folder / f"{pair}.{source}"), find_text(folder / f"{pair}.{target}")


def languages_of(pair: str) -> Tuple[str, str]:
    source, target = pair.split("-")
    return source, target


def find_text(path: Path) -> Path:
    """Return path, or the same name with .gz; refuses neither and both."""
    zipped = path.with_name(path.name + ".gz")
    if path.exists() and zipped.exists():
        refuse(f"{path} and {zipped} both exist: remove one of them")
    if not path.exists() and not zipped.exists():
        refuse(f"{path}: no such file, nor {zipped.name}")
    return path if path.exists() else zipped


def input_files(folder: Path, split: str, pair: str) -> Sides:
    """Return the two files of a text in OUT/text or RAW, whichever folder is.

    In RAW a validation set is valid/en-de.{en,de}, in OUT/text valid.en-de.{en,de}.
    """
    if split in EVAL_SPLITS and (folder / split).is_dir():
        source, target = (folder / split / f"{pair}.{lang}" for lang in languages_of(pair))
        return source, target
    return text_files(folder, split, pair)


def text_files(folder: Path, split: str, pair: str) -> Sides:
    source, target = (folder / f"{split}.{pair}.{language}" for language in languages_of(pair))
    return source, target
