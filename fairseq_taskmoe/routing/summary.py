"""Mean similarity of the directions' routing in each layer: summary.tsv.

The paper infers such findings from its heat-maps (section 5.4, A.7); here they are means over all
pairs of directions. P language pairs, E experts.
"""

from collections import Counter
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..metrics.lang_pairs import split_pair
from ..text_tables import write_tsv
from .shares import RoutingShares
from .similarity import METRICS, experts_in_use, similarity_of

COLUMNS = ("side", "layer", "directions", "pairs", *METRICS, "experts_in_use")


class Directions(NamedTuple):
    """Directions into the common language, or from it."""

    name: str  # xx-en or en-xx
    words: str  # into en, from en
    rows: List[int]  # their indices among the P pairs


def directions_of(lang_pairs: Sequence[str]) -> List[Directions]:
    """Return the directions into the language that most pairs have, and those from it."""
    pairs = [split_pair(pair) for pair in lang_pairs]
    counts = Counter(sorted(lang for pair in pairs for lang in pair))
    common = max(counts, key=lambda lang: (counts[lang], lang == "en"))
    return [
        Directions(name, words, [row for row, pair in enumerate(pairs) if pair[side] == common])
        for name, words, side in (
            (f"xx-{common}", f"into {common}", -1), (f"{common}-xx", f"from {common}", 0)
        )
    ]


def save_summary(shares: RoutingShares, path: Path) -> None:
    """Write summary.tsv: for each layer a row for directions into English and one for the others.
    """
    write_tsv(path, summary_rows(shares))


def summary_rows(shares: RoutingShares) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the summary, the header first.

    Similarities are means over all pairs of different directions; a group with fewer than two
    directions has no row.
    """
    yield COLUMNS
    for (stack, i), all_rows in shares.layers.items():
        for name, _, indices in directions_of(shares.lang_pairs):
            rows = all_rows[indices]
            rows = rows[rows.any(axis=1)]
            if len(rows) < 2:
                continue
            similarity = similarity_of(rows)
            different = np.triu_indices(len(rows), 1)
            means = [getattr(similarity, metric)[different].mean() for metric in METRICS]
            means.append(experts_in_use(rows).sum(axis=1).mean())
            yield stack, str(i), name, str(len(rows)), *(f"{mean:.3f}" for mean in means)
