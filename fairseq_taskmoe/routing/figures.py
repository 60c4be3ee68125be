"""The paper's figures 5-11 and a dendrogram, drawn from the files of `taskmoe routing`.

Directions are grouped by the language that most of them have, such as English: those into it
(xx-en) and those from it (en-xx). Other directions appear only in `routing`. P language pairs,
E experts. docs/analyse-routing.md says which figure is which of the paper's.
"""

import sys
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from ..names import STACKS
from ..plotting import new_figure, save_in_folder
from .heat_maps import (
    HeatMap,
    all_layers,
    draw_heat_maps,
    heat_map,
    is_constant,
    layer_title,
)
from .shares import RoutingShares, load_shares
from .similarity import jensen_shannon
from .summary import Directions, directions_of


class HeatMapFigure(NamedTuple):
    """A file with lines of heat-maps."""

    name: str  # without ending
    title: str
    lines: List[List[HeatMap]]


class Tree(NamedTuple):
    """One panel of the dendrogram."""

    title: str
    lang_pairs: List[str]  # Q
    merges: Optional[np.ndarray]  # (Q - 1, 4), as scipy's linkage returns them; None: no two share


def draw_figures(folder: Path) -> List[str]:
    """Draw all figures of a folder that has routing.npz; return their names."""
    shares = load_shares(folder / "routing.npz")
    drawn: List[str] = []
    for name, title, lines in heat_map_figures(shares):
        figure = new_figure()
        draw_heat_maps(figure, lines, title)
        drawn += save_in_folder(figure, folder, name)
    trees = list(find_trees(shares))
    for tree in trees:
        if tree.merges is None:
            print(f"{', '.join(tree.title.splitlines())}: no two directions share an expert, so "
                  "there is no tree", file=sys.stderr)
    if any(tree.merges is not None for tree in trees):
        figure = new_figure()
        draw_trees(figure, trees, model_title(shares))
        drawn += save_in_folder(figure, folder, "dendrogram")
    return drawn


def heat_map_figures(shares: RoutingShares) -> Iterator[HeatMapFigure]:
    """Yield the figures: all layers, the last ones, then each stack's first and last layer."""
    yield HeatMapFigure("routing", model_title(shares), all_layers(shares))
    into, out_of = directions_of(shares.lang_pairs)
    panels = [
        heat_map(shares, stack, layers_of(shares, stack)[-1], directions.rows, directions.words)
        for stack, directions in (("encoder", into), ("decoder", out_of))
        if is_drawn(shares, stack, directions)
    ]
    if panels:
        yield HeatMapFigure("last_layers", model_title(shares), [panels])
    for stack in STACKS:
        for directions in (into, out_of):
            if is_drawn(shares, stack, directions):
                layers = layers_of(shares, stack)
                ends = layers[:1] if len(layers) == 1 else [layers[0], layers[-1]]
                yield HeatMapFigure(
                    f"{stack}_{directions.name}",
                    model_title(shares),
                    [[heat_map(shares, stack, layer, directions.rows, directions.words)
                      for layer in ends]],
                )


def model_title(shares: RoutingShares) -> str:
    """Return the title of a figure: the model, and what its decoder reads if that matters."""
    reads = shares.about.get("decoder reads")
    needed = reads and layers_of(shares, "decoder") and not is_constant(shares, "decoder")
    facts = [shares.about.get("model"), f"decoder reads {reads}" if needed else None]
    return "\n".join(filter(None, facts))


def layers_of(shares: RoutingShares, stack: str) -> List[int]:
    """Return the MoE layers of a stack, ascending."""
    return [layer for other, layer in shares.layers if other == stack]


def is_drawn(shares: RoutingShares, stack: str, directions: Directions) -> bool:
    """Tell whether a stack has MoE layers, and directions that are not all the same task.

    With routing by target language, all directions into English have the same shares.
    """
    rows = [shares.layers[stack, layer][directions.rows] for layer in layers_of(shares, stack)]
    if not rows or not directions.rows:
        return False
    return len(directions.rows) == 1 or any((own != own[0]).any() for own in rows)


def find_trees(shares: RoutingShares) -> Iterator[Tree]:
    """Yield a tree of the directions for the last MoE layer of each stack, by average linkage.

    The distance of two clusters is the mean Jensen-Shannon distance of their members.
    """
    for stack in STACKS:
        for directions in directions_of(shares.lang_pairs):
            if is_drawn(shares, stack, directions):
                layer = layers_of(shares, stack)[-1]
                values = jensen_shannon(shares.layers[stack, layer])
                # the values of a direction without routed text are NaN
                rows = [row for row in directions.rows if not np.isnan(values[row, row])]
                if len(rows) > 1:
                    distances = squareform(1 - values[np.ix_(rows, rows)], checks=False)
                    yield Tree(
                        layer_title(shares, stack, layer, directions.words),
                        [shares.lang_pairs[row] for row in rows],
                        linkage(distances, "average") if (distances < 1 - 1e-9).any() else None,
                    )


def draw_trees(figure: Any, trees: Sequence[Tree], title: str) -> None:
    """Draw trees side by side, with the leaves on the left."""
    rows = max(len(tree.lang_pairs) for tree in trees)
    figure.set_size_inches(3 * len(trees) + 0.6, max(1.8, 0.18 * rows) + 1.5)
    figure.suptitle(f"{title}\nSimilarity of routing, by average linkage", fontsize=10)
    # one scale for all
    merges = [tree.merges for tree in trees if tree.merges is not None]
    longest = max(float(each[:, 2].max()) for each in merges) or 1.0
    for tree, axis in zip(trees, figure.subplots(1, len(trees), squeeze=False)[0], strict=True):
        axis.set_title(tree.title, fontsize=9)
        if tree.merges is None:
            axis.text(0.5, 0.5, "No two directions\nshare an expert", ha="center", fontsize=8)
            axis.set_axis_off()
            continue
        dendrogram(
            tree.merges, labels=tree.lang_pairs, orientation="right", ax=axis,
            color_threshold=0, above_threshold_color="black", leaf_font_size=7,
        )
        axis.set_xlim(0, longest * 1.05)
        axis.set_xlabel("Jensen-Shannon distance", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "left", "right"]].set_visible(False)
