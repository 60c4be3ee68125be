"""How much directions are routed alike, layer by layer, in a few lines: summary.tsv.

The paper reads such findings off its heat-maps (section 5.4, A.7); here they are means over all
pairs of directions. P language pairs, E experts.
"""

from collections import Counter
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from .heat_maps import RoutingShares
from .similarity import METRICS, experts_in_use, similarity_of

COLUMNS = ("side", "layer", "directions", "pairs", *METRICS, "experts_in_use")


class Directions(NamedTuple):
    """Directions into the common language, or out of it."""

    name: str  # xx-en or en-xx
    rows: List[int]  # their places among the P pairs


def directions_of(lang_pairs: Sequence[str]) -> List[Directions]:
    """Return the directions into the language that most pairs have, and those out of it."""
    ends = [pair.split("-") for pair in lang_pairs]
    counts = Counter(sorted(lang for pair in ends for lang in pair))
    hub = max(counts, key=lambda lang: (counts[lang], lang == "en"))
    return [
        Directions(name, [row for row, pair in enumerate(ends) if pair[side] == hub])
        for name, side in ((f"xx-{hub}", -1), (f"{hub}-xx", 0))
    ]


def save_summary(shares: RoutingShares, path: Path) -> None:
    """Write summary.tsv: a row for each layer, of directions into English and of those from it."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in summary_rows(shares))


def summary_rows(shares: RoutingShares) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the summary, its head first.

    Similarities are means over each two different directions; of fewer than two there are none.
    """
    yield COLUMNS
    for (side, i), all_rows in shares.layers.items():
        for name, places in directions_of(shares.lang_pairs):
            rows = all_rows[places]
            rows = rows[rows.any(axis=1)]
            if len(rows) < 2:
                continue
            similarity = similarity_of(rows)
            two = np.triu_indices(len(rows), 1)
            means = [getattr(similarity, metric)[two].mean() for metric in METRICS]
            means.append(experts_in_use(rows).sum(axis=1).mean())
            yield side, str(i), name, str(len(rows)), *(f"{mean:.3f}" for mean in means)
