"""Measure which experts each language pair uses on a test set (paper figures 5-11).

The encoder reads the sources; the decoder reads, teacher-forced, the references or the model's own
translations. P language pairs, E experts.
"""

import sys
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from fairseq.utils import split_paths
from torch import Tensor
from tqdm import tqdm

from ..checkpoint.reading import read_model
from ..data.dataset_manager import holds_pair, refuse_part_of_pair
from ..data.languages import check_folders
from ..devices import choose_device, place
from ..errors import refuse
from ..evaluation.evaluate import digest
from ..evaluation.length_checks import check_lengths
from ..evaluation.translate import Batch, Batching, load_for_pairs
from ..files import new_folder
from ..models.router_kinds import ROUTERS
from ..modules.gate_losses import GateStats, first_choices
from ..modules.moe_layer import MoELayer
from ..modules.routers import RouterOutput
from ..names import STACKS
from ..plotting import can_plot
from .figures import draw_figures
from .load import save_load
from .shares import LayerName, load_shares
from .similarity import save_similarity
from .statistics import ExpertUse, RoutingStatistics, loads_of, save_npz, save_table
from .summary import save_summary
from .text import RoutedText, TextChoice


def write_routing(
    data: str,
    path: str,
    out: str,
    lang_pairs: Optional[Sequence[str]] = None,
    split: str = "test",
    batching: Batching = Batching(),  # noqa: B008 (a NamedTuple is immutable)
    cpu: bool = False,
    beam: int = 0,
    multi_parallel: bool = False,
) -> List[str]:
    """Write tables of routing, similarity and load to the new folder out, and figures.

    Without lang_pairs: for all trained pairs that the data folder contains. With a beam the decoder
    reads the translations of a search of that width, otherwise the references. Figures need
    matplotlib. Returns the names of the files.
    """
    choice = TextChoice(split, beam, multi_parallel)
    with new_folder(out) as folder:
        pairs = list(lang_pairs or trained_pairs_in(data, path, split))
        model, task = load_for_pairs(data, path, pairs)
        check_lengths(model, task, task.served, split, batching, read_references=not beam)
        place(model, choose_device(cpu), searches=bool(beam))
        statistics = collect(model, task, choice, batching)
        save_npz(statistics, describe(path, choice), folder / "routing.npz")
        save_table(statistics, folder / "routing.tsv")
        shares = load_shares(folder / "routing.npz")
        save_similarity(shares, folder / "similarity.tsv")
        save_summary(shares, folder / "summary.tsv")
        save_load(statistics.lang_pairs, loads_of(statistics), folder)
        if can_plot():
            draw_figures(folder)
        return sorted(file.name for file in folder.iterdir())


def trained_pairs_in(data: str, path: str, split: str) -> List[str]:
    """Return the pairs that a checkpoint was trained on and that the data folder contains."""
    trained = read_model(path).pairs
    check_folders(data)
    folder = split_paths(data)[0]
    pairs = [pair for pair in trained if holds_pair(folder, split, pair)]
    if not pairs:
        for pair in trained:
            refuse_part_of_pair(folder, split, pair)
        refuse(f"{folder} holds no {split} data of the trained pairs {', '.join(trained)}")
    return pairs


def describe(path: str, choice: TextChoice) -> Dict[str, str]:
    """Return the names and values of `about` in routing.npz."""
    cfg = read_model(path).cfg
    about = {}
    for stack in STACKS:
        name = str(getattr(cfg, f"{stack}_moe_router"))
        about[f"{stack} router"] = name
        about[f"{stack} routed by"] = ROUTERS[name].words
        about[f"{stack} experts"] = (
            "vary" if ROUTERS[name].varies_by_sentence else "constant for a direction"
        )
    return {
        **about,
        "model": f"transformer_task_moe, {cfg.moe_expert_count} experts, top {cfg.moe_top_k}",
        "decoder reads": choice.decoder_reads,
        "split": choice.split,
        "sentences": "common to all pairs" if choice.multi_parallel else "all",
        "checkpoint": digest(path),
    }


@torch.no_grad()
def collect(
    model: Any, task: Any, choice: TextChoice, batching: Batching
) -> RoutingStatistics:
    """Run the pairs that a task serves through its model, and sum up each MoE layer's choices."""
    layers = {
        (stack, i): layer.moe
        for stack in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, stack).layers)
        if layer.moe is not None
    }
    if not layers:
        refuse("the model has no MoE layers: nothing is routed")
    text = RoutedText(model, task, choice, batching)
    uses = []
    for pair in task.served:
        uses.append(measure(model, layers, text.batches(pair)))
        tqdm.write(f"{pair}: {uses[-1].sentences} sentences", file=sys.stderr)
    tables = {name: np.stack([use.layers[name] for use in uses], axis=1) for name in layers}
    return RoutingStatistics(
        list(task.served),
        [use.sentences for use in uses],
        {name: ExpertUse(*table) for name, table in tables.items()},
    )


class PairUse(NamedTuple):
    """The routing of one direction's text in each MoE layer."""

    sentences: int
    layers: Dict[LayerName, np.ndarray]  # (5, E): the fields of ExpertUse


def measure(
    model: Any, layers: Dict[LayerName, MoELayer], batches: Iterator[Batch]
) -> PairUse:
    """Run one pair's batches through a model, and sum up the choices of its MoE layers."""
    num_fields = len(ExpertUse._fields)
    num_experts: Dict[LayerName, Any] = {n: moe.router.num_experts for n, moe in layers.items()}
    sums = {name: np.zeros((num_fields, number)) for name, number in num_experts.items()}
    sentences = 0
    for batch in batches:
        sentences += len(batch["id"])
        with record_choices(layers) as choices:
            stats = gate_stats(model, batch)
        for name, layer_stats in zip(layers, stats, strict=True):
            use = torch.stack([layer_stats.load, layer_stats.gate_sum, *choices[name]])
            sums[name] += use.double().cpu().numpy()
    return PairUse(sentences, sums)


class Choices(NamedTuple):
    """Statistics of a batch beyond GateStats, which training computes at every step."""

    tokens: Tensor  # (E,) tokens whose first choice an expert is, whether or not it has capacity
    prob_sum: Tensor  # (E,) sum of its softmax probabilities for those tokens
    dropped: Tensor  # (E,) choices beyond its capacity


@contextmanager
def record_choices(layers: Dict[LayerName, MoELayer]) -> Iterator[Dict[LayerName, Choices]]:
    """Yield a dictionary that holds each layer's choices in the most recent batch.

    They are computed in hooks of the routers, since training does not need them.
    """
    choices: Dict[LayerName, Choices] = {}

    def make_hook(name: LayerName) -> Any:
        def hook(router: Any, args: Any, routing: Any) -> None:
            _, inputs = args
            choices[name] = Choices(
                *first_choices(routing, inputs.token_mask),
                dropped_choices(routing, inputs.token_mask),
            )

        return hook

    handles = [moe.router.register_forward_hook(make_hook(name)) for name, moe in layers.items()]
    try:
        yield choices
    finally:
        for handle in handles:
            handle.remove()


def dropped_choices(routing: RouterOutput, token_mask: Tensor) -> Tensor:
    """Return how many choices (E,) of the tokens in token_mask (B, S) exceeded the capacity."""
    dropped = routing.probs.new_zeros(routing.probs.size(2))
    if routing.overflow is not None:
        for k in range(routing.expert_ids.size(2)):  # count the k-th choices as first choices
            choice = routing._replace(expert_ids=routing.expert_ids[..., k:])
            dropped += first_choices(choice, token_mask & routing.overflow[..., k]).tokens
    return dropped


def gate_stats(model: Any, batch: Dict[str, Any]) -> List[GateStats]:
    """Return the statistics of a batch's routing, one for each MoE layer, the encoder's first."""
    net_input = dict(batch["net_input"])
    # a reference may be longer than the model's maximum number of positions
    references = net_input["prev_output_tokens"][:, : model.max_decoder_positions()]
    net_input["prev_output_tokens"] = references
    _, extra = model(**net_input, features_only=True)
    return [*extra["encoder_gate_stats"], *extra["gate_stats"]]
