"""How the work is spread over experts, and which of them directions share: load.tsv, experts.tsv.

P language pairs, E experts of a layer. Every direction weighs the same, however long its text is.
"""

import math
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from .heat_maps import LayerName
from .similarity import COVERED, experts_in_use

FIFTH = 0.2  # of the experts: the busiest and the least busy ones, as fairseq's MoE logs them
LOAD_COLUMNS = (
    "side", "layer", "lang_pair", "tokens", "overflow", "entropy", "experts_80", "unused",
    "top_20", "bottom_20",
)
EXPERT_COLUMNS = ("side", "layer", "expert", "share", "pairs_using", "pairs_80")
ALL = "all"


class LayerLoad(NamedTuple):
    """What one MoE layer received."""

    shares: np.ndarray  # (P, E) of a pair's choices
    tokens: np.ndarray  # (P,)
    overflow: np.ndarray  # (P,) share of a pair's choices that their expert had no room for


class Spread(NamedTuple):
    """How one distribution over E experts is spread."""

    entropy: float  # in bits; log2 E where all are as busy
    experts_80: int  # fewest experts that received 80 %
    unused: int
    top_20: float  # share of the busiest fifth of the experts
    bottom_20: float  # share of the least busy fifth


def spread_of(shares: np.ndarray) -> Spread:
    """Return how shares (E,) of a layer's experts, which sum to 1 or 0, are spread."""
    busiest = -np.sort(-shares)
    fifth = max(1, math.ceil(FIFTH * len(shares)))
    positive = shares[shares > 0]
    return Spread(
        entropy=abs(float((positive * np.log2(positive)).sum())),
        experts_80=num_covering(busiest),
        unused=int((shares == 0).sum()),
        top_20=float(busiest[:fifth].sum()),
        bottom_20=float(busiest[-fifth:].sum()),
    )


def num_covering(descending: np.ndarray) -> int:
    """Return how many of these, from the largest on, make up 80 % of their sum; 0 of nothing."""
    total = descending.sum()
    if not total:
        return 0
    return int((descending.cumsum() < (COVERED - 1e-9) * total).sum()) + 1


def save_load(
    lang_pairs: Sequence[str], layers: Dict[LayerName, LayerLoad], folder: Path
) -> None:
    """Write load.tsv, a row for each layer and pair and one for all pairs, and experts.tsv."""
    for name, rows in (
        ("load.tsv", load_rows(lang_pairs, layers)), ("experts.tsv", expert_rows(layers))
    ):
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines("\t".join(row) + "\n" for row in rows)


def load_rows(
    lang_pairs: Sequence[str], layers: Dict[LayerName, LayerLoad]
) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of load.tsv, its head first; pair `all` is the mean of the pairs' shares."""
    yield LOAD_COLUMNS
    for (side, i), load in layers.items():
        everyone = [(ALL, load.tokens.sum(), load.overflow.mean(), load.shares.mean(axis=0))]
        each = zip(lang_pairs, load.tokens, load.overflow, load.shares, strict=True)
        for pair, tokens, overflow, shares in [*everyone, *each]:
            spread = spread_of(shares)
            yield (
                side, str(i), pair, f"{tokens:.0f}", f"{overflow:.6f}", f"{spread.entropy:.6f}",
                str(spread.experts_80), str(spread.unused), f"{spread.top_20:.6f}",
                f"{spread.bottom_20:.6f}",
            )


def expert_rows(layers: Dict[LayerName, LayerLoad]) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of experts.tsv, its head first: one for each layer and expert.

    pairs_using counts the pairs that use it (routing_similarity.experts_in_use), pairs_80 those
    that bring 80 % of what it receives.
    """
    yield EXPERT_COLUMNS
    for (side, i), load in layers.items():
        using: List[int] = experts_in_use(load.shares).sum(axis=0).tolist()
        for expert, received in enumerate(load.shares.T):
            yield (
                side, str(i), str(expert), f"{received.mean():.6f}", str(using[expert]),
                str(num_covering(-np.sort(-received))),
            )
