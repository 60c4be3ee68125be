"""Similarity of the routing of language pairs: cosine, Jensen-Shannon, Jaccard, common experts.

P language pairs, E experts of a layer. Shares (P, E) are those of a pair's choices that each expert
received. For a pair without routed text (a row of zeros) the similarities are NaN.
"""

from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
from scipy.special import rel_entr

from ..text_tables import write_tsv
from .shares import LayerName, RoutingShares

COVERED = 0.8  # a pair uses the experts that received this share of its choices
METRICS = ("cosine", "jensen_shannon", "jaccard")
COLUMNS = ("side", "layer", "lang_pair", "other_pair", *METRICS, "common_experts")


class Similarity(NamedTuple):
    """One MoE layer's similarities, each (P, P), symmetric, from 0 to 1."""

    cosine: np.ndarray  # of the shares
    jensen_shannon: np.ndarray  # 1 - distance
    jaccard: np.ndarray  # of the sets of experts in use
    common_experts: np.ndarray  # (P, P) int64, experts that both pairs use; no similarity


def similarity_of(shares: np.ndarray) -> Similarity:
    """Return the similarities of the pairs with shares (P, E)."""
    in_use = experts_in_use(shares)
    return Similarity(
        cosine(shares), jensen_shannon(shares), jaccard(in_use), common_experts(in_use)
    )


def experts_in_use(shares: np.ndarray, covered: float = COVERED) -> np.ndarray:
    """Return which experts (P, E) a pair uses: the busiest that received `covered` of its choices.

    Experts with the same share as the last of them count too, since the order of equal shares is
    arbitrary. A task with K equal experts thus uses K.
    """
    busiest = -np.sort(-shares, axis=1)
    # the tolerance makes 0.5 + 0.3 reach 0.8
    reached = busiest.cumsum(axis=1) >= covered - 1e-9
    last = np.take_along_axis(busiest, reached.argmax(axis=1)[:, None], axis=1)
    return (shares >= last) & (shares > 0)


def cosine(shares: np.ndarray) -> np.ndarray:
    """Return the cosine similarity (P, P) of the rows of shares (P, E)."""
    with np.errstate(invalid="ignore"):
        unit = shares / np.linalg.norm(shares, axis=1, keepdims=True)
    return np.clip(unit @ unit.T, 0, 1)


def jensen_shannon(shares: np.ndarray) -> np.ndarray:
    """Return 1 - Jensen-Shannon distance (P, P) of the rows of shares (P, E).

    The distance is the square root of the divergence in bits (base 2), a metric from 0 (equal
    shares) to 1 (no common expert).
    """
    shares = shares.astype(np.float64)
    rows = np.where(shares.any(axis=1, keepdims=True), shares, np.nan)
    similarity = np.empty((len(rows), len(rows)))
    for i, row in enumerate(rows):  # one row at a time takes memory P E instead of P^2 E
        middle = (row + rows) / 2
        nats = (rel_entr(row, middle) + rel_entr(rows, middle)).sum(axis=1) / 2
        similarity[i] = 1 - np.sqrt(np.clip(nats / np.log(2), 0, 1))
    return similarity


def jaccard(in_use: np.ndarray) -> np.ndarray:
    """Return |A & B| / |A | B| (P, P) for each two of P sets of experts (P, E)."""
    common = common_experts(in_use)
    sizes = np.where(in_use.any(axis=1), in_use.sum(axis=1), np.nan)
    return common / (sizes[:, None] + sizes - common)


def common_experts(in_use: np.ndarray) -> np.ndarray:
    """Return the number of common experts (P, P) of each two of P sets (P, E)."""
    members = in_use.astype(np.int64)
    return members @ members.T


def save_similarity(shares: RoutingShares, path: Path) -> None:
    """Write similarity.tsv."""
    layers = {name: similarity_of(rows) for name, rows in shares.layers.items()}
    write_tsv(path, table_rows(shares.lang_pairs, layers))


def table_rows(
    lang_pairs: List[str], layers: Dict[LayerName, Similarity]
) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the table, the header first: one for each layer and two different pairs."""
    yield COLUMNS
    for (stack, i), similarity in layers.items():
        for row, pair in enumerate(lang_pairs):
            for other in range(row + 1, len(lang_pairs)):
                yield (
                    stack, str(i), pair, lang_pairs[other],
                    *(f"{getattr(similarity, metric)[row, other]:.6f}" for metric in METRICS),
                    str(similarity.common_experts[row, other]),
                )
