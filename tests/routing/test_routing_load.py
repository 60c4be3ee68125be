"""Load over experts: tables by hand, scipy, what always holds, and the files."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy

from fairseq_taskmoe.routing.load import LayerLoad, balance_of, num_covering, save_load


@pytest.mark.parametrize(
    "shares, expected",
    [
        # entropy, experts that cover 80 %, unused, busiest and least busy fifth
        ([0.25, 0.25, 0.25, 0.25], (2, 4, 0, 0.25, 0.25)),
        ([0.5, 0.5, 0, 0], (1, 2, 2, 0.5, 0)),
        ([0, 1.0, 0, 0], (0, 1, 3, 1, 0)),
        ([0.5, 0.3, 0.1, 0.1, 0, 0], (1.685475, 2, 2, 0.8, 0)),  # a fifth of 6, rounded up: 2
        ([0.0, 0.0], (0, 0, 2, 0, 0)),
    ],
)
def test_spread_by_hand(shares, expected):
    assert tuple(balance_of(np.array(shares))) == pytest.approx(expected, abs=1e-6)


counts = arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 50)).filter(np.any)


@given(counts)
def test_what_always_holds(numbers):
    shares = numbers / numbers.sum()
    balance = balance_of(shares)
    assert balance.entropy == pytest.approx(entropy(numbers, base=2), abs=1e-9)
    assert 0 <= balance.bottom_20 <= balance.top_20 <= 1 + 1e-9
    assert balance.unused + balance.experts_80 <= len(numbers)
    busiest = np.sort(shares)[::-1]
    assert busiest[: balance.experts_80].sum() >= 0.8 - 1e-6
    assert busiest[: balance.experts_80 - 1].sum() < 0.8
    assert balance_of(shares[::-1]) == pytest.approx(balance)


@given(counts, st.integers(1, 10**6))
def test_the_number_that_covers_80_percent_has_no_scale(numbers, factor):
    ordered = np.sort(numbers)[::-1].astype(float)
    assert num_covering(ordered) == num_covering(ordered * factor)


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_files_by_hand(tmp_path):
    load = LayerLoad(
        shares=np.array([[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [1.0, 0, 0, 0]]),
        tokens=np.array([10.0, 20, 5]),
        overflow=np.array([0, 0.25, 0.5]),
    )
    save_load(["de-en", "en-de", "en-fr"], {("encoder", 1): load, ("decoder", 3): load}, tmp_path)
    rows = read(tmp_path / "load.tsv")
    assert [row["lang_pair"] for row in rows] == 2 * ["all", "de-en", "en-de", "en-fr"]
    assert rows[4:] == [{**row, "side": "decoder", "layer": "3"} for row in rows[:4]]
    # the mean of all three: 2/3, 1/6, 1/6, 0
    assert rows[0] == {
        "side": "encoder", "layer": "1", "lang_pair": "all", "tokens": "35",
        "overflow": "0.250000", "entropy": "1.251629", "experts_80": "2", "unused": "1",
        "top_20": "0.666667", "bottom_20": "0.000000",
    }
    assert (rows[2]["tokens"], rows[2]["overflow"], rows[2]["entropy"]) == (
        "20", "0.250000", "1.000000"
    )
    experts = read(tmp_path / "experts.tsv")[:4]
    assert [tuple(row.values())[2:] for row in experts] == [
        # of what expert 0 receives, en-fr brings half, the others a quarter each
        ("0", "0.666667", "3", "3"),
        ("1", "0.166667", "1", "1"),
        ("2", "0.166667", "1", "1"),
        ("3", "0.000000", "0", "0"),
    ]
