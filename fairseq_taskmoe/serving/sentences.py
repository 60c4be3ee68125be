"""Splitting of long lines into sentences with sentencex, and joining of their translations."""

from importlib import import_module
from itertools import islice
from typing import Any, Iterator, List, NamedTuple, Sequence

from ..errors import refuse
from ..metrics.lang_pairs import base_code, split_pair

UNSPACED = {"zh", "zho", "cmn", "yue", "ja", "jpn", "th", "tha", "lo", "lao", "km", "khm", "my"}


class Line(NamedTuple):
    """The sentences of a line, and the white space after each but the last."""

    sentences: List[str]
    gaps: List[str]


class SentenceSplitter:
    """Splits lines of the source language, and joins translations in the target language."""

    def __init__(self, lang_pair: str):
        try:
            self.segment: Any = import_module("sentencex").segment
        except ImportError:
            refuse("--split-sentences needs the Python package sentencex: "
                   "pip install 'fairseq-taskmoe[sentences]'")
        source, target = split_pair(lang_pair)
        self.language = base_code(source)
        self.unspaced = base_code(target) in UNSPACED

    def split(self, text: str) -> Line:
        """Return the sentences of a line; an empty line has one, which is empty."""
        parts = [part for part in self.segment(self.language, text) if part.strip()]
        gaps = [part[len(part.rstrip()):] for part in parts]
        return Line([part.strip() for part in parts] or [""], gaps[:-1])

    def join(self, lines: Sequence[Line], translations: Iterator[str]) -> List[str]:
        """Join the translations of all sentences of lines, in their order, to lines.

        White space between sentences is that of the source. Where the source has none, as in
        Chinese, it is a space. A target language without spaces between sentences gets none.
        """
        joined = []
        for line in lines:
            texts = list(islice(translations, len(line.sentences)))
            gaps = ["" if self.unspaced else gap or " " for gap in line.gaps]
            pairs = zip(texts, [*gaps, ""], strict=True)
            joined.append("".join(text + gap for text, gap in pairs))
        return joined
