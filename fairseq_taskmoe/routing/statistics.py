"""The routing of each language pair's text in the MoE layers, and its tables.

P language pairs, E experts.
"""

from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from ..text_tables import write_tsv
from .load import LayerLoad
from .shares import LayerName

COLUMNS = ("side", "layer", "lang_pair", "expert", "share", "mean_gate", "first", "first_prob")


class ExpertUse(NamedTuple):
    """The routing of each language pair's text in one MoE layer."""

    load: np.ndarray  # (P, E) choices that an expert received, counted in tokens
    gate_sum: np.ndarray  # (P, E) sum of the gates of these choices
    first: np.ndarray  # (P, E) tokens whose first choice an expert is
    first_prob_sum: np.ndarray  # (P, E) sum of its softmax probabilities for those tokens
    dropped: np.ndarray  # (P, E) choices beyond its capacity, counted in tokens

    @property
    def shares(self) -> np.ndarray:
        """Return the share (P, E) of a pair's choices that each expert received."""
        return _divide(self.load, self.load.sum(axis=1, keepdims=True))

    @property
    def mean_gates(self) -> np.ndarray:
        """Return the mean gate (P, E) of the choices that an expert received, 0 if none."""
        return _divide(self.gate_sum, self.load)

    @property
    def first_probs(self) -> np.ndarray:
        """Return the mean probability (P, E) of an expert as first choice, 0 if it never is.

        Koishekenov et al. (2023) call the mean gate of an expert as first choice its confidence.
        This is the softmax over all experts, not the gate that weights the expert's output: gates
        are normalised over the chosen experts, so that they depend on the second choice, which
        pruning changes.
        """
        return _divide(self.first_prob_sum, self.first)

    @property
    def overflow(self) -> np.ndarray:
        """Return the share (P,) of a pair's choices beyond their expert's capacity."""
        dropped = self.dropped.sum(axis=1)
        return _divide(dropped, self.load.sum(axis=1) + dropped)


class RoutingStatistics(NamedTuple):
    """Expert use of all MoE layers, the encoder's first."""

    lang_pairs: List[str]
    sentences: List[int]  # of each pair
    layers: Dict[LayerName, ExpertUse]


def save_npz(statistics: RoutingStatistics, about: Dict[str, str], path: Path) -> None:
    """Write routing.npz, which shares.py and subnet/expert_importance.py read.

    It holds lang_pairs (P,), sentences (P,), int64, about (N, 2): names and values, as strings,
    that describe the measurement, and for each MoE layer (the same for decoder.layers.{i}):
    encoder.layers.{i}: shares (P, E), float64
    encoder.layers.{i}.first: first choices (P, E), int64
    encoder.layers.{i}.first_prob: their mean softmax probability (P, E), float64
    encoder.layers.{i}.dropped: choices beyond the capacity (P, E), int64
    """
    arrays = {
        "lang_pairs": np.array(statistics.lang_pairs),
        "sentences": np.array(statistics.sentences, dtype=np.int64),
        "about": np.array(list(about.items())),
    }
    for (stack, i), use in statistics.layers.items():
        layer = f"{stack}.layers.{i}"
        arrays[layer] = use.shares
        arrays[f"{layer}.first"] = use.first.astype(np.int64)
        arrays[f"{layer}.first_prob"] = use.first_probs
        arrays[f"{layer}.dropped"] = use.dropped.astype(np.int64)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def save_table(statistics: RoutingStatistics, path: Path) -> None:
    """Write routing.tsv: a row for each layer, pair and expert."""
    write_tsv(path, table_rows(statistics))


def table_rows(statistics: RoutingStatistics) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the table, the header first."""
    yield COLUMNS
    for (stack, i), use in statistics.layers.items():
        shares, gates, first_probs = use.shares, use.mean_gates, use.first_probs
        for row, pair in enumerate(statistics.lang_pairs):
            for expert in range(shares.shape[1]):
                at = row, expert
                yield (
                    stack, str(i), pair, str(expert), f"{shares[at]:.6f}", f"{gates[at]:.6f}",
                    f"{use.first[at]:.0f}", f"{first_probs[at]:.6f}",
                )


def loads_of(statistics: RoutingStatistics) -> Dict[LayerName, LayerLoad]:
    """Return the load of each layer, for save_load."""
    return {
        name: LayerLoad(use.shares, use.first.sum(axis=1), use.overflow)
        for name, use in statistics.layers.items()
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where the denominator is 0."""
    zeros = np.zeros_like(numerator)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
