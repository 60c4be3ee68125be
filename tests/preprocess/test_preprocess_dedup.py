"""Deduplication and held-out sentences, compared with sets of all sentences in memory."""

import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess.chunks import ProcessingOptions  # noqa: E402
from preprocess.cleaning.dedup import dedup_pair, write_held_out_keys  # noqa: E402
from preprocess.cleaning.sentence_keys import first_occurrences, folded  # noqa: E402
from preprocess.corpus import Dataset  # noqa: E402
from preprocess.pool import WorkerPool, worker_pool  # noqa: E402
from preprocess.text_files import read_lines, write_lines  # noqa: E402


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("Open the File!", "open the  file", True),
        ("Page 12 of 30", "page 45 of 99", True),
        ("Page 1 of 3", "Page 10 of 3", False),
        ("«Привет», — сказал он.", "Привет - сказал он", True),
        ("पृष्ठ १२", "पृष्ठ ३४।", True),
        ("की", "का", False),  # they differ in a vowel sign alone
        ("打开：文件。", "打开文件", True),
        ("...", "!", False),  # nothing but punctuation is compared as it is
    ],
)
def test_folding(one, other, same):
    assert (folded(one) == folded(other)) is same


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])))
def test_folding_is_what_unicode_calls_punctuation_and_digits(text):
    """Slow reference: character by character."""
    kept = []
    for char in text.lower():
        category = unicodedata.category(char)
        if category == "Nd":
            kept.append("0")
        elif not (category[0] in "PZ" or category in ("Cc", "Cf")):
            kept.append(char)
    assert folded(text) == ("".join(kept) or text).encode()


@given(st.lists(st.integers(0, 30)), st.integers(1, 12))
def test_first_occurrences(numbers, block):
    """In parts by the first bits, compared with a set of the keys before each."""
    # spread over all bits, so that there is more than one part
    keys = np.array([number * 0x0842108421084210 % 2**64 for number in numbers], dtype="<u8")
    seen = set()
    expected = [not (key in seen or seen.add(key)) for key in keys.tolist()]
    assert first_occurrences(keys, block).tolist() == expected


def random_datasets(folder, rng):
    """Write two data sets whose sentences are drawn from few, and return them."""
    datasets = []
    for name in ("a", "b"):
        sides = [folder / f"{name}.{language}" for language in ("en", "de")]
        count = rng.randrange(30, 60)
        for path, words in zip(sides, ("one two three", "eins zwei drei"), strict=True):
            ends = [" xy", " x", ", xyy.", " XY!"]
            drawn = [rng.choice(words.split()) + rng.choice(ends) for _ in range(count)]
            write_lines(path, drawn)
        datasets.append(Dataset(name, tuple(sides)))
    return datasets


@pytest.mark.parametrize("seed", range(5))
def test_dedup_is_that_of_sets_in_memory(tmp_path, seed):
    rng = random.Random(seed)
    datasets = random_datasets(tmp_path, rng)
    held_out = tmp_path / "test.de"
    write_lines(held_out, ["EINS xy?", "nirgends"])
    english = tmp_path / "test.en"
    write_lines(english, ["two, xyy", "eins x"])  # the latter is German: not held out there
    write_held_out_keys([("de", held_out), ("en", english)], tmp_path / "held_out.npy")
    outputs = (tmp_path / "out.en", tmp_path / "out.de")
    processing = ProcessingOptions(WorkerPool(None, 1), 7)
    counts = dedup_pair(
        datasets, outputs, ("en", "de"), tmp_path / "held_out.npy", tmp_path / "work", processing
    )

    seen, expected = set(), []
    expected_counts = {name: {"duplicates": 0, "held out": 0} for name in "ab"}
    for name, (source, target) in datasets:
        for pair in zip(read_lines(source), read_lines(target), strict=True):
            key = tuple(map(folded, pair))
            if key[0] == b"twoxyy" or key[1] in (b"einsxy", b"nirgends"):
                expected_counts[name]["held out"] += 1
            elif key in seen:
                expected_counts[name]["duplicates"] += 1
            else:
                seen.add(key)
                expected.append(pair)
    assert list(zip(*map(read_lines, outputs), strict=True)) == expected
    for name in "ab":
        for kind, count in expected_counts[name].items():
            assert counts[name][kind] == count
    assert sum(one["kept"]["lines"] for one in counts.values()) == len(expected) > 0


def test_workers_change_nothing(tmp_path):
    datasets = random_datasets(tmp_path, random.Random(9))
    write_held_out_keys([], tmp_path / "held_out.npy")
    texts = []
    for name, workers in (("alone", 1), ("three", 3)):
        outputs = tuple(tmp_path / f"{name}.{language}" for language in ("en", "de"))
        with worker_pool(workers) as pool:
            dedup_pair(
                datasets,
                outputs,
                ("en", "de"),
                tmp_path / "held_out.npy",
                tmp_path / name,
                ProcessingOptions(pool, 4),
            )
        texts.append([path.read_bytes() for path in outputs])
    assert texts[0] == texts[1]
