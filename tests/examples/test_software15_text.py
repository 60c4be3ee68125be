"""Text of user interfaces: plain text, filters of sentence pairs, overlap of sentences."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # examples are not installed
    sys.path.insert(0, str(ROOT))

from examples.software15.interface_text import plain_text, rejection  # noqa: E402
from examples.software15.word_overlap import overlap  # noqa: E402


@pytest.mark.parametrize(
    "raw, plain",
    [
        ("打印(_P)...", "打印..."),
        ("~Save As…", "Save As..."),
        ("F_ormat <b>cell</b>", "Format cell"),
        ("About %PRODUCTNAME", "About LibreOffice"),
    ],
)
def test_plain_text(raw, plain):
    assert plain_text(raw) == plain


@pytest.mark.parametrize(
    "english, translation, language, reason",
    [
        ("Open file", "Datei öffnen", "de", None),
        ("Heading 1", "HEADING 2", "de", "copy"),
        ("10 %", "10 процентов", "ru", "no text"),
        ("Open file", "Open фaйл", "ru", "script"),
        ("Inserts the contents of a file", "Datei", "de", "length ratio"),
    ],
)
def test_filters_of_sentence_pairs(english, translation, language, reason):
    assert rejection(english, translation, language) == reason


def test_overlap_counts_the_words_of_the_first():
    assert overlap("Insert a new Row", "insert row") == 0.5
    assert overlap("insert row", "Insert a new row") == 1.0
    assert overlap("cell by cell", "in a cell") == pytest.approx(2 / 3)
