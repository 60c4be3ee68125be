"""The texts of an evaluation: a file of hypotheses, references and sources for each direction."""

from pathlib import Path
from typing import NamedTuple, Sequence

from ..files import write_atomically
from ..metrics.lang_pairs import split_pair


class EvaluationFolder(NamedTuple):
    """The paths of the texts, such as out/hypotheses/test.en-de.de."""

    out: Path
    split: str

    def hypotheses(self, lang_pair: str) -> Path:
        return self._file("hypotheses", lang_pair, split_pair(lang_pair)[1])

    def references(self, lang_pair: str) -> Path:
        return self._file("references", lang_pair, split_pair(lang_pair)[1])

    def sources(self, lang_pair: str) -> Path:
        return self._file("sources", lang_pair, split_pair(lang_pair)[0])

    def _file(self, kind: str, lang_pair: str, lang: str) -> Path:
        return self.out / kind / f"{self.split}.{lang_pair}.{lang}"


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines as a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(line + "\n" for line in lines))
