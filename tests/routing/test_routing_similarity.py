"""Similarities of routing: naive loops and scipy, what always holds, and files."""

import csv
import itertools
import math

import numpy as np
import pytest
from helpers import LANG_PAIRS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from routing_cases import both, write_checkpoint, write_data
from scipy.spatial import distance

from fairseq_taskmoe.routing.collect import write_routing
from fairseq_taskmoe.routing.shares import RoutingShares
from fairseq_taskmoe.routing.similarity import (
    METRICS,
    experts_in_use,
    save_similarity,
    similarity_of,
)

ENC, DEC = ("encoder", 1), ("decoder", 3)
PAIRS = ["de-en", "en-de", "en-fr"]


@st.composite
def shares(draw, empty=False):
    """Draw shares (P, E) of counted choices, with ties, and with empty a row of zeros."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    counts = draw(arrays(np.int64, shape, elements=st.integers(0, 30)))
    counts[:, draw(st.integers(0, shape[1] - 1))] += 1
    rows = counts / counts.sum(axis=1, keepdims=True)
    if empty:
        rows[draw(st.integers(0, shape[0] - 1))] = 0
    return rows


def used_by_hand(row):
    """Return the experts of one pair: the busiest, until they make up 80 %, and their equals."""
    used, total = set(), 0.0
    for share in sorted(set(row), reverse=True):
        if total >= 0.8 - 1e-9:
            break
        for expert in np.flatnonzero(row == share):
            used.add(int(expert))
            total += share
    return used


@given(shares())
def test_metrics_are_those_of_a_loop_and_of_scipy(rows):
    found = similarity_of(rows)
    for p, one in enumerate(rows):
        for q, other in enumerate(rows):
            assert found.cosine[p, q] == pytest.approx(1 - distance.cosine(one, other), abs=1e-9)
            middle = (one + other) / 2
            bits = sum(
                a * math.log2(a / m) / 2
                for row in (one, other) for a, m in zip(row, middle, strict=True) if a
            )
            # the root makes much of rounding where there is no difference
            js = found.jensen_shannon[p, q]
            assert js == pytest.approx(1 - math.sqrt(max(bits, 0)), abs=1e-7)
            scipys = distance.jensenshannon(one, other, base=2)
            assert js == pytest.approx(1 - np.nan_to_num(scipys), abs=1e-7)
            a, b = used_by_hand(one), used_by_hand(other)
            assert found.jaccard[p, q] == pytest.approx(len(a & b) / len(a | b))
            assert found.common_experts[p, q] == len(a & b)


@given(shares())
def test_similarities_are_symmetric_from_0_to_1_and_1_with_oneself(rows):
    for metric, values in similarity_of(rows)._asdict().items():
        np.testing.assert_allclose(values, values.T, atol=1e-12)
        if metric in METRICS:
            assert values.min() >= 0 and values.max() <= 1
            np.testing.assert_allclose(np.diag(values), 1)


@given(shares(), st.randoms(use_true_random=False))
def test_numbering_of_the_experts_does_not_matter(rows, random):
    order = list(range(rows.shape[1]))
    random.shuffle(order)
    found, renumbered = similarity_of(rows), similarity_of(rows[:, order])
    for metric, values in found._asdict().items():
        np.testing.assert_allclose(values, getattr(renumbered, metric), atol=1e-7)


@given(shares(), st.randoms(use_true_random=False))
def test_order_of_the_pairs_does_not_matter(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    found, reordered = similarity_of(rows), similarity_of(rows[order])
    for metric, values in found._asdict().items():
        np.testing.assert_allclose(
            values[np.ix_(order, order)], getattr(reordered, metric), atol=1e-7
        )


def test_nothing_in_common_and_all_in_common():
    rows = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]])
    for metric in METRICS:
        np.testing.assert_array_equal(
            getattr(similarity_of(rows), metric).round(12), [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
        )


@pytest.mark.parametrize(
    "row, used",
    [
        ([0.5, 0.5, 0, 0], [0, 1]),
        ([0.7, 0.1, 0.1, 0.1], [0, 1, 2, 3]),  # equals of the last one count too
        ([0.1, 0.5, 0.3, 0.1], [1, 2]),  # 0.8 exactly, for all that floats say
        ([1 / 3, 1 / 3, 1 / 3, 0], [0, 1, 2]),
        ([0.05, 0.9, 0.05, 0], [1]),
        ([0, 0, 0, 0], []),
    ],
)
def test_experts_in_use(row, used):
    assert np.flatnonzero(experts_in_use(np.array([row]))[0]).tolist() == used


@given(shares(empty=True))
def test_similarities_of_a_pair_without_text_are_nan(rows):
    empty = ~rows.any(axis=1)
    for metric, values in similarity_of(rows)._asdict().items():
        if metric in METRICS:
            np.testing.assert_array_equal(np.isnan(values), empty[:, None] | empty)


def test_directions_of_a_task_are_routed_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_taskmoe.routing.collect.can_plot", lambda: False)
    pairs = [*LANG_PAIRS, "fr-en"]
    path = write_checkpoint(tmp_path / "checkpoint.pt", pairs, **both("target"))
    write_routing(write_data(tmp_path), path, str(tmp_path / "out"), list(LANG_PAIRS))
    found = rows_of(tmp_path / "out" / "similarity.tsv")
    same = [row for row in found
            if row["lang_pair"].split("-")[1] == row["other_pair"].split("-")[1]]
    assert len(same) == 4 * sum(
        pair.split("-")[1] == other.split("-")[1]
        for pair, other in itertools.combinations(LANG_PAIRS, 2)
    )
    for row in same:
        assert [float(row[metric]) for metric in METRICS] == [1, 1, 1]
        assert row["common_experts"] == "2"


# -- files

ROWS = {
    ENC: np.array([[0.5, 0.5, 0], [0.25, 0.25, 0.5], [0, 0, 1.0]]),
    DEC: np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]),
}


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_file_has_a_row_for_each_layer_and_two_pairs(tmp_path):
    save_similarity(RoutingShares(PAIRS, ROWS, {}), tmp_path / "similarity.tsv")
    rows = rows_of(tmp_path / "similarity.tsv")
    assert [(row["lang_pair"], row["other_pair"]) for row in rows] == 2 * [
        ("de-en", "en-de"), ("de-en", "en-fr"), ("en-de", "en-fr")
    ]
    for row in rows:
        at = PAIRS.index(row["lang_pair"]), PAIRS.index(row["other_pair"])
        found = similarity_of(ROWS[row["side"], int(row["layer"])])
        for metric in (*METRICS, "common_experts"):
            value = getattr(found, metric)[at]
            assert float(row[metric]) == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert rows[5]["cosine"] == "nan"
