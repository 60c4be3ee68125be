"""Which experts each language pair uses, measured on a test set (paper figures 5-11).

The model reads the sources and, teacher-forced, the references. P language pairs, E experts.
"""

from contextlib import contextmanager
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
from ..modules.gate_losses import FirstChoices, GateStats, first_choices
from ..modules.moe_layer import MoELayer
from .routing_plot import plot_routing

LayerName = Tuple[str, int]  # half, and index of the layer from 0
COLUMNS = ("side", "layer", "lang_pair", "expert", "share", "mean_gate", "first", "first_prob")


class ExpertUse(NamedTuple):
    """What one MoE layer did with each language pair's text."""

    load: np.ndarray  # (P, E) choices that an expert received, counted in tokens
    gate_sum: np.ndarray  # (P, E) gates with which it received them, added up
    first: np.ndarray  # (P, E) tokens whose first choice an expert is
    first_prob_sum: np.ndarray  # (P, E) its softmax probabilities for those tokens, added up

    @property
    def shares(self) -> np.ndarray:
        """Return the share (P, E) of a pair's choices that each expert received."""
        return _divide(self.load, self.load.sum(axis=1, keepdims=True))

    @property
    def mean_gates(self) -> np.ndarray:
        """Return the mean gate (P, E) of the choices that an expert received, 0 without any."""
        return _divide(self.gate_sum, self.load)

    @property
    def first_probs(self) -> np.ndarray:
        """Return the mean probability (P, E) with which an expert comes first, 0 where it never is.

        Koishekenov et al. (2023) call the mean gate of an expert that comes first its confidence.
        This is the softmax over all experts, not the gate that weighs the expert's output: two
        gates are normalised to 1, and then say who came second, which pruning changes.
        """
        return _divide(self.first_prob_sum, self.first)


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
    layers = {
        (half, i): layer.moe
        for half in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, half).layers)
        if layer.moe is not None
    }
    if not layers:
        refuse("the model has no MoE layers: nothing is routed")
    # P x the fields of ExpertUse x E
    shape = (len(task.served), len(ExpertUse._fields))
    sums = {name: np.zeros((*shape, moe.router.num_experts)) for name, moe in layers.items()}
    with watch_first_choices(layers) as firsts:
        for row, pair in enumerate(task.served):
            for batch in batches(model, task, pair, split, batching):
                for name, stats in zip(layers, gate_stats(model, batch), strict=True):
                    use = torch.stack([stats.load, stats.gate_sum, *firsts[name]])
                    sums[name][row] += use.double().cpu().numpy()
    uses = {name: ExpertUse(*added.swapaxes(0, 1)) for name, added in sums.items()}
    return RoutingStatistics(list(task.served), uses)


@contextmanager
def watch_first_choices(
    layers: Dict[LayerName, MoELayer]
) -> Iterator[Dict[LayerName, FirstChoices]]:
    """Yield a dictionary that holds each layer's first choices of the batch that was run last.

    It listens to the routers, so that the model's forward need not compute what training has no
    use for.
    """
    seen: Dict[LayerName, FirstChoices] = {}

    def listener(name: LayerName) -> Any:
        def listen(router: Any, args: Any, routing: Any) -> None:
            _, inputs = args
            seen[name] = first_choices(routing, inputs.token_mask)

        return listen

    handles = [moe.router.register_forward_hook(listener(name)) for name, moe in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gate_stats(model: Any, batch: Dict[str, Any]) -> List[GateStats]:
    """Return the statistics of a batch's routing, one for each MoE layer, the encoder's first."""
    net_input = dict(batch["net_input"])
    # a reference may be longer than the model's positions reach
    references = net_input["prev_output_tokens"][:, : model.max_decoder_positions()]
    net_input["prev_output_tokens"] = references
    _, extra = model(**net_input, features_only=True)
    return [*extra["encoder_gate_stats"], *extra["gate_stats"]]


def save_npz(statistics: RoutingStatistics, path: Path) -> None:
    """Write what routing_plot and expert_importance read: lang_pairs (P,), and for each MoE layer

    encoder.layers.{i}: shares (P, E), float64
    encoder.layers.{i}.first: first choices (P, E), int64
    encoder.layers.{i}.first_prob: their mean softmax probability (P, E), float64
    and as many for decoder.layers.{i}.
    """
    arrays = {"lang_pairs": np.array(statistics.lang_pairs)}
    for (side, i), use in statistics.layers.items():
        layer = f"{side}.layers.{i}"
        arrays[layer] = use.shares
        arrays[f"{layer}.first"] = use.first.astype(np.int64)
        arrays[f"{layer}.first_prob"] = use.first_probs
    np.savez(path, **arrays)  # type: ignore[arg-type]


def table_rows(statistics: RoutingStatistics) -> Iterator[Tuple[str, ...]]:
    """Yield the rows of the table, its head first: one for each layer, pair and expert."""
    yield COLUMNS
    for (side, i), use in statistics.layers.items():
        shares, gates, first_probs = use.shares, use.mean_gates, use.first_probs
        for row, pair in enumerate(statistics.lang_pairs):
            for expert in range(shares.shape[1]):
                at = row, expert
                yield (
                    side, str(i), pair, str(expert), f"{shares[at]:.6f}", f"{gates[at]:.6f}",
                    f"{use.first[at]:.0f}", f"{first_probs[at]:.6f}",
                )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where that is 0 / 0."""
    zeros = np.zeros_like(numerator)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
