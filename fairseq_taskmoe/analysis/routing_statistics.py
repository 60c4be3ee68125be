"""Which experts each language pair uses, measured on a test set (paper figures 5-11).

The model reads the sources and, teacher-forced, the references. P language pairs, E experts.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.utils import split_paths

from ..checkpoint.reading import pairs_of, read_task_moe_checkpoint
from ..data.dataset_manager import holds_pair
from ..errors import refuse
from ..evaluation.translate import Batching, batches, load_for_pairs
from ..files import new_folder
from ..modules.gate_losses import GateStats
from .routing_plot import plot_routing

LayerName = Tuple[str, int]  # half, and index of the layer from 0
COLUMNS = ("side", "layer", "lang_pair", "expert", "share", "mean_gate")


class ExpertUse(NamedTuple):
    """What one MoE layer did with each language pair's text."""

    load: np.ndarray  # (P, E) choices that an expert received, counted in tokens
    gate_sum: np.ndarray  # (P, E) gates with which it received them, added up

    @property
    def shares(self) -> np.ndarray:
        """Return the share (P, E) of a pair's choices that each expert received."""
        return _divide(self.load, self.load.sum(axis=1, keepdims=True))

    @property
    def mean_gates(self) -> np.ndarray:
        """Return the mean gate (P, E) of the choices that an expert received, 0 without any."""
        return _divide(self.gate_sum, self.load)


class RoutingStatistics(NamedTuple):
    """Expert use of all MoE layers, the encoder's first."""

    lang_pairs: List[str]
    layers: Dict[LayerName, ExpertUse]


def write_routing(
    data: str,
    path: str,
    out: str,
    lang_pairs: Optional[Sequence[str]] = None,
    split: str = "test",
    batching: Batching = Batching(),  # noqa: B008 (a NamedTuple is immutable)
    cpu: bool = False,
) -> List[str]:
    """Write routing.npz, routing.tsv and with matplotlib routing.png to the new folder out.

    Without lang_pairs: of all trained pairs that the data folder holds. Returns the files' names.
    """
    with new_folder(out) as folder:
        pairs = lang_pairs or trained_pairs_in(data, path, split)
        model, task = load_for_pairs(data, path, pairs)
        if torch.cuda.is_available() and not cpu:
            model.cuda()
        statistics = collect(model, task, split, batching)
        save_npz(statistics, folder / "routing.npz")
        with open(folder / "routing.tsv", "w", encoding="utf-8") as file:
            file.writelines("\t".join(row) + "\n" for row in table_rows(statistics))
        if find_spec("matplotlib"):
            plot_routing(folder / "routing.npz", folder / "routing.png")
        return sorted(file.name for file in folder.iterdir())


def trained_pairs_in(data: str, path: str, split: str) -> List[str]:
    """Return the pairs that a checkpoint was trained on and that the data folder holds."""
    trained = pairs_of(read_task_moe_checkpoint(path))
    folder = split_paths(data)[0]

    pairs = [pair for pair in trained if holds_pair(folder, split, pair)]
    if not pairs:
        refuse(f"{folder} holds no {split} data of the trained pairs {', '.join(trained)}")
    return pairs


@torch.no_grad()
def collect(model: Any, task: Any, split: str, batching: Batching) -> RoutingStatistics:
    """Run the pairs that a task serves through its model, and add up each MoE layer's choices."""
    names = [
        (half, i)
        for half in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, half).layers)
        if layer.moe is not None
    ]
    if not names:
        refuse("the model has no MoE layers: nothing is routed")
    uses: Dict[LayerName, List[List[np.ndarray]]] = {name: [] for name in names}
    for pair in task.served:
        sums = [[np.zeros(1), np.zeros(1)] for _ in names]
        for batch in batches(model, task, pair, split, batching):
            for added, stats in zip(sums, gate_stats(model, batch), strict=True):
                for i, values in enumerate((stats.load, stats.gate_sum)):
                    added[i] = added[i] + values.double().cpu().numpy()
        for name, added in zip(names, sums, strict=True):
            uses[name].append(added)
    layers = {
        name: ExpertUse(*(np.stack(rows) for rows in zip(*pairs, strict=True)))
        for name, pairs in uses.items()
    }
    return RoutingStatistics(list(task.served), layers)


def gate_stats(model: Any, batch: Dict[str, Any]) -> List[GateStats]:
    """Return the statistics of a batch's routing, one for each MoE layer, the encoder's first."""
    net_input = dict(batch["net_input"])
    # a reference may be longer than the model's positions reach
    references = net_input["prev_output_tokens"][:, : model.max_decoder_positions()]
    net_input["prev_output_tokens"] = references
    _, extra = model(**net_input, features_only=True)
    return [*extra["encoder_gate_stats"], *extra["gate_stats"]]


def save_npz(statistics: RoutingStatistics, path: Path) -> None:
    """Write the shares in the format that routing_plot reads."""
    arrays = {f"{side}.layers.{i}": use.shares for (side, i), use in statistics.layers.items()}
    arrays["lang_pairs"] = np.array(statistics.lang_pairs)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def table_rows(statistics: RoutingStatistics) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the table, its head first: one for each layer, pair and expert."""
    yield COLUMNS
    for (side, i), use in statistics.layers.items():
        shares, gates = use.shares, use.mean_gates
        for row, pair in enumerate(statistics.lang_pairs):
            for expert in range(shares.shape[1]):
                numbers = (f"{values[row, expert]:.6f}" for values in (shares, gates))
                yield (side, str(i), pair, str(expert), *numbers)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where that is 0 / 0."""
    zeros = np.zeros_like(numerator)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
