"""The load of the experts, and the experts that directions have in common: load.tsv, experts.tsv.

P language pairs, E experts of a layer. All directions have the same weight, whatever the length of
their text.
"""

import math
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..text_tables import write_tsv
from .shares import LayerName
from .similarity import COVERED, experts_in_use

FIFTH = 0.2  # of the experts; fairseq's MoE branch logs the busiest and least busy fifth too
LOAD_COLUMNS = (
    "side", "layer", "lang_pair", "tokens", "overflow", "entropy", "experts_80", "unused",
    "top_20", "bottom_20",
)
EXPERT_COLUMNS = ("side", "layer", "expert", "share", "pairs_using", "pairs_80")
ALL = "all"


class LayerLoad(NamedTuple):
    """The load of one MoE layer."""

    shares: np.ndarray  # (P, E) of a pair's choices
    tokens: np.ndarray  # (P,)
    overflow: np.ndarray  # (P,) share of a pair's choices beyond their expert's capacity


class Balance(NamedTuple):
    """How evenly one distribution uses E experts."""

    entropy: float  # in bits; log2 E for equal shares
    experts_80: int  # the smallest number of experts that received 80 %
    unused: int
    top_20: float  # share of the busiest fifth of the experts
    bottom_20: float  # share of the least busy fifth


def balance_of(shares: np.ndarray) -> Balance:
    """Return the balance of a layer's shares (E,), which sum to 1 or 0."""
    busiest = -np.sort(-shares)
    fifth = max(1, math.ceil(FIFTH * len(shares)))
    positive = shares[shares > 0]
    return Balance(
        entropy=abs(float((positive * np.log2(positive)).sum())),
        experts_80=num_covering(busiest),
        unused=int((shares == 0).sum()),
        top_20=float(busiest[:fifth].sum()),
        bottom_20=float(busiest[-fifth:].sum()),
    )


def num_covering(descending: np.ndarray) -> int:
    """Return how many of the largest values make up 80 % of the sum; 0 if the sum is 0."""
    total = descending.sum()
    if not total:
        return 0
    return int((descending.cumsum() < (COVERED - 1e-9) * total).sum()) + 1


def save_load(
    lang_pairs: Sequence[str], layers: Dict[LayerName, LayerLoad], folder: Path
) -> None:
    """Write load.tsv, a row for each layer and pair and one for all pairs, and experts.tsv."""
    write_tsv(folder / "load.tsv", load_rows(lang_pairs, layers))
    write_tsv(folder / "experts.tsv", expert_rows(layers))


def load_rows(
    lang_pairs: Sequence[str], layers: Dict[LayerName, LayerLoad]
) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of load.tsv, the header first; pair `all` is the mean of the pairs' shares."""
    yield LOAD_COLUMNS
    for (stack, i), load in layers.items():
        total = [(ALL, load.tokens.sum(), load.overflow.mean(), load.shares.mean(axis=0))]
        each = zip(lang_pairs, load.tokens, load.overflow, load.shares, strict=True)
        for pair, tokens, overflow, shares in [*total, *each]:
            balance = balance_of(shares)
            yield (
                stack, str(i), pair, f"{tokens:.0f}", f"{overflow:.6f}", f"{balance.entropy:.6f}",
                str(balance.experts_80), str(balance.unused), f"{balance.top_20:.6f}",
                f"{balance.bottom_20:.6f}",
            )


def expert_rows(layers: Dict[LayerName, LayerLoad]) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of experts.tsv, the header first: one for each layer and expert.

    pairs_using is the number of pairs that use it (similarity.experts_in_use), pairs_80 the
    smallest number of pairs that contribute 80 % of its load.
    """
    yield EXPERT_COLUMNS
    for (stack, i), load in layers.items():
        using: List[int] = experts_in_use(load.shares).sum(axis=0).tolist()
        for expert, received in enumerate(load.shares.T):
            yield (
                stack, str(i), str(expert), f"{received.mean():.6f}", str(using[expert]),
                str(num_covering(-np.sort(-received))),
            )
