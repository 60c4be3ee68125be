"""docs/your-data.md and README: commands run as they are written, from raw text to a model."""

import csv
import json
import lzma
import re
import socket
import subprocess
from itertools import pairwise

import pytest
from document_commands import command_blocks, run_page
from forked_processes import ROOT

CORPUS = ROOT / "tests" / "corpora" / "interface-15.tsv.xz"
COLUMNS = {"en": "en", "de": "de", "fr": "fr", "zh_CN": "zh"}
DIRECTIONS = {"en-de", "de-en", "en-fr", "fr-en", "en-zh_CN", "zh_CN-en"}
SMALLER = {"vocab_size: 8000": "vocab_size: 700", "size=200k": "size=20k optimization.max_update=8"}


@pytest.fixture(scope="module")
def text():
    """Return the lines of a small corpus by language."""
    with lzma.open(CORPUS, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {lang: [row[column] + "\n" for row in rows] for lang, column in COLUMNS.items()}


@pytest.fixture
def clone(tmp_path):
    """Return a folder that has what the pages need of the root of a clone."""
    for name in ("configs", "preprocess"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def test_held_out_lines_are_random_and_stay_parallel(tmp_path):
    block = command_blocks("docs/your-data.md")[0]
    for lang in ("de", "fr", "zh_CN"):
        for side in ("en", lang):
            write(tmp_path / "text" / f"en-{lang}.{side}", [f"{n}\n" for n in range(30_000)])
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, check=True)
    sides = [
        [(tmp_path / "raw" / name.format(side)).read_text().split() for side in ("en", "zh_CN")]
        for name in ("valid/en-zh_CN.{}", "test/en-zh_CN.{}", "train/en-zh_CN/mine.{}")
    ]
    assert all(first == second for first, second in sides)
    assert [len(first) for first, _ in sides] == [500, 500, 29_000]
    assert {int(n) for first, _ in sides for n in first} == set(range(30_000))
    for held_out, _ in sides[:2]:  # not neighbours, which are often almost equal
        numbers = sorted(map(int, held_out))
        assert sum(after - before < 3 for before, after in pairwise(numbers)) < 50


@pytest.mark.slow
def test_raw_text_becomes_a_served_model(clone, text):
    for lang in ("de", "fr", "zh_CN"):
        for side in ("en", lang):
            write(clone / "text" / f"en-{lang}.{side}", text[side])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    said = run_page("docs/your-data.md", clone, {
        **SMALLER, "vocab_size: 8000": "vocab_size: 1100",  # 256 bytes, and Chinese characters
        "optimization.max_update=20000": "", "8000": port,
        "500": "20", "501": "21", "1000": "40", "1001": "41",
    })
    results = json.loads((clone / "results" / "results.json").read_text())
    assert set(results["directions"]) == DIRECTIONS
    assert {score["sentences"] for score in results["directions"].values()} == {20}
    assert {folder.name for folder in (clone / "models").iterdir()} == DIRECTIONS
    assert {"systems.md", "directions.tex"} <= {file.name for file in (clone / "tables").iterdir()}
    assert re.search(r'"translations"', said), said


@pytest.mark.slow
def test_the_commands_of_the_readme(clone, text):
    for lang in ("de", "fr"):
        for side in ("en", lang):
            for place, lines in (("valid", text[side][:20]), ("test", text[side][20:40])):
                write(clone / "raw" / place / f"en-{lang}.{side}", lines)
            write(clone / "raw" / "train" / f"en-{lang}" / f"mine.{side}", text[side][40:])
    write(clone / "text.en", text["en"][:3])
    run_page("README.md", clone, SMALLER)
    for name in ("text.de", "text.int8.de"):
        assert len((clone / name).read_text(encoding="utf-8").split("\n")) == 4
    assert len(json.loads((clone / "results" / "results.json").read_text())["directions"]) == 4
