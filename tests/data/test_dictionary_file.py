"""dict.txt: what fairseq reads is read as fairseq does, and what it does not is named."""

import pytest
from fairseq.data import Dictionary

from fairseq_taskmoe.data.dictionary_file import read_dictionary
from fairseq_taskmoe.errors import Refusal

GOOD = {
    "plain": "\u2581a 12\nb 3\n__de__ 0\n",
    "no last end": "a 1\nb 2",
    "windows": "a 1\r\nb 2\r\n",
    "replaced word": "a 1\nb 2\na 7 #fairseq:overwrite\n",
    "words with spaces": "a b 1\nc\u2028d 2\ne\x0cf 3\n",
    "numbers as words": "1 1\n-1 -5\n",
    "filled up": "a 1\nmadeupword0000 0\n",
}
BAD = {
    "empty": ("", "has no words"),
    "no count": ("a 1\nb\n", "line 2"),
    "bad count": ("a 1\nb one\n", "line 2"),
    "half a count": ("a 1\nb 1.5\n", "line 2"),
    "empty line": ("a 1\n\nb 2\n", "line 2"),
    "no word": ("a 1\n 2\n", "line 2"),
    "twice a word": ("a 1\nb 2\na 3\n", "line 3: the word 'a'"),
    "one of fairseq's own": ("a 1\n<unk> 3\n", "line 2: the word '<unk>'"),
    "carriage return inside": ("a 1\nb\rc 2\n", "line 2"),
    "byte order mark": ("\ufeffa 1\n", "byte order mark"),
    "other text": ("Lorem ipsum\n", "line 1"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_dictionaries_are_read_as_by_fairseq(name, tmp_path):
    path = tmp_path / "dict.txt"
    path.write_bytes(GOOD[name].encode())
    own, stock = read_dictionary(str(path)), Dictionary.load(str(path))
    assert (own.symbols, own.count) == (stock.symbols, stock.count)
    assert own.indices == stock.indices


@pytest.mark.parametrize("name", BAD)
def test_invalid_dictionaries_are_refused(name, tmp_path):
    content, said = BAD[name]
    (tmp_path / "dict.de.txt").write_bytes(content.encode())
    with pytest.raises(Refusal, match="dict.de.txt") as refusal:
        read_dictionary(str(tmp_path / "dict.de.txt"))
    assert said in str(refusal.value)


def test_dictionaries_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "dict.de.txt").write_bytes("a 1\n\u00fc 1\n".encode("latin-1"))
    with pytest.raises(Refusal, match="dict.de.txt: line 2 is not UTF-8"):
        read_dictionary(str(tmp_path / "dict.de.txt"))
