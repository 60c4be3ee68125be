"""Text as it is read: a line in is a line out, and what is none of the text is left out."""

import sys
from pathlib import Path

import pytest
import yaml

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.read_files import read_json, read_lines, read_text, read_yaml

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess import text_files  # noqa: E402

SPACES = "one\u2028two\x85three\x0cfour\x0bfive\x1csix\rseven\x00eight\ufeffnine\u200bten"
LINES = {
    b"": [],
    b"\n": [""],
    b"one\ntwo\n": ["one", "two"],
    b"one\ntwo": ["one", "two"],
    b"one\n\n": ["one", ""],
    b"one\r\ntwo\r\n": ["one", "two"],
    b"one\r\ntwo\r": ["one", "two"],
    b"one\r\n\r\n": ["one", ""],
    b"\xef\xbb\xbfone\r\ntwo": ["one", "two"],
    b"\xef\xbb\xbf": [""],
    f"{SPACES}\n{SPACES}\n".encode(): [SPACES, SPACES],
}


@pytest.mark.parametrize("content", LINES, ids=ascii)
def test_only_a_line_feed_ends_a_line(content, tmp_path):
    (tmp_path / "text").write_bytes(content)
    assert read_lines(tmp_path / "text") == LINES[content]
    assert text_files.read_lines(tmp_path / "text") == LINES[content]
    assert text_files.count_lines(tmp_path / "text") == len(LINES[content])


def test_the_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("one\u2028\rone\n\nGr\u00fc\u00dfe\n".encode().replace(b"\xc3\xbc", b"\xfc"))
    for read in (read_lines, read_text):
        with pytest.raises(Refusal, match="latin.txt: line 3 is not UTF-8"):
            read(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"a: [1"],
    ids=["empty", "open", "UTF-16", "deep", "cut"],
)
def test_what_is_no_json_and_no_yaml_is_named(content, tmp_path):
    path = tmp_path / "settings"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="settings"):
        read_json(path, "report")
    if content:
        with pytest.raises(Refusal, match="settings"):
            read_yaml(path, yaml.SafeLoader)


def test_a_byte_order_mark_is_no_part_of_yaml_and_no_json(tmp_path):
    path = tmp_path / "settings"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_yaml(path, yaml.SafeLoader) == {"a": 1}
    with pytest.raises(Refusal, match="settings is not a report"):
        read_json(path, "report")


@pytest.mark.parametrize("read", [read_lines, read_text])
def test_missing_files_and_folders_are_named(read, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(Refusal, match=path.name):
            read(path)
