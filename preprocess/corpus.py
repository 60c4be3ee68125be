"""Where the files of a corpus are.

RAW/train/en-de/DATASET.{en,de}    any number of data sets; plain, or .gz
RAW/{valid,test}/en-de.{en,de}
OUT/text/{train,valid,test}.en-de.{en,de}
OUT/spm.model, OUT/dict.txt, OUT/data-bin/
OUT/work/                          what only the steps need
"""

from pathlib import Path
from typing import List, NamedTuple, Tuple

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.paths import check_path

SPLITS = ("train", "valid", "test")
EVAL_SPLITS = ("valid", "test")


class Dataset(NamedTuple):
    """A parallel text of some pair."""

    name: str
    source: Path
    target: Path


class Corpus(NamedTuple):
    """The folders of a corpus that is being prepared."""

    raw: Path
    out: Path

    def text(self, split: str, pair: str) -> Tuple[Path, Path]:
        """Return the clean text of a pair."""
        source, target = text_files(self.out / "text", split, pair)
        return source, target

    def has_text(self, split: str, pair: str) -> bool:
        return all(path.exists() for path in self.text(split, pair))

    def work(self, *parts: str) -> Path:
        return self.out.joinpath("work", *parts)

    def stamp(self, step: str, *parts: str) -> Path:
        """Return the file that says that a step is done for a data set or a pair."""
        return self.work("stages", ".".join([step, *parts]) + ".txt")

    def datasets(self, pair: str) -> List[Dataset]:
        """Return the training sets of a pair by name, refusing none, and one with half a side."""
        folder = self.raw / "train" / pair
        source, target = pair.split("-")
        names = {
            _dataset_name(path, language)
            for path in (folder.iterdir() if folder.is_dir() else ())
            for language in (source, target)
        } - {""}
        if not names:
            refuse(f"{folder}: no training data, as in DATASET.{source} and DATASET.{target}")
        for name in names:
            check_path(folder / name)
        return [
            Dataset(name, *(find_text(folder / f"{name}.{side}") for side in (source, target)))
            for name in sorted(names)
        ]

    def raw_eval(self, split: str, pair: str) -> Tuple[Path, Path]:
        """Return the validation or test set of a pair, refusing where there is none."""
        source, target = (self.raw / split / f"{pair}.{language}" for language in pair.split("-"))
        return find_text(source), find_text(target)


def _dataset_name(path: Path, language: str) -> str:
    name = path.name.removesuffix(".gz")
    return name.removesuffix("." + language) if name.endswith("." + language) else ""


def find_text(path: Path) -> Path:
    """Return path, or the same name with .gz, refusing neither and both."""
    zipped = path.with_name(path.name + ".gz")
    if path.exists() and zipped.exists():
        refuse(f"{path} and {zipped} both exist: remove one of them")
    if not path.exists() and not zipped.exists():
        refuse(f"{path}: no such file, nor {zipped.name}")
    return path if path.exists() else zipped


def given_files(folder: Path, split: str, pair: str) -> List[Path]:
    """Return the two files of a text, whose validation and test sets may be as fetch leaves them.

    It leaves valid/en-de.{en,de} in RAW, where OUT/text has valid.en-de.{en,de}.
    """
    if split in EVAL_SPLITS and (folder / split).is_dir():
        return [folder / split / f"{pair}.{language}" for language in pair.split("-")]
    return text_files(folder, split, pair)


def text_files(folder: Path, split: str, pair: str) -> List[Path]:
    return [folder / f"{split}.{pair}.{language}" for language in pair.split("-")]
