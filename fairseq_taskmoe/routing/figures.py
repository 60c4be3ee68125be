"""The paper's figures 5-11 and a dendrogram, drawn from the files of `taskmoe routing`.

Directions are grouped by the language that most of them have, such as English: those into it
(xx-en) and those from it (en-xx). Other directions appear only in routing.png. P language pairs,
E experts.
"""

from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence

import numpy as np
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from ..errors import refuse
from ..names import STACKS
from ..plotting import new_figure, save_figure
from .heat_maps import HeatMap, draw_heat_maps, plot_routing
from .shares import RoutingShares, load_shares
from .similarity import JensenShannon, load_jensen_shannon
from .summary import Directions, directions_of

TASK_KINDS = ("source", "target", "pair", "group", "static")  # routers that do not read the text


class HeatMapFigure(NamedTuple):
    """A file with one line of heat-maps."""

    name: str
    title: str
    panels: List[HeatMap]


class Tree(NamedTuple):
    """One panel of the dendrogram."""

    title: str
    lang_pairs: List[str]  # Q
    merges: np.ndarray  # (Q - 1, 4), as scipy's linkage returns them


def draw_figures(folder: Path) -> List[str]:
    """Draw all figures of a folder that has routing.npz and similarity.npz; return their names."""
    shares = load_shares(folder / "routing.npz")
    similarity = load_jensen_shannon(folder / "similarity.npz")
    if (shares.lang_pairs, list(shares.layers)) != (similarity.lang_pairs, list(similarity.layers)):
        refuse(f"{folder}: routing.npz and similarity.npz have different pairs or layers")
    trees = list(find_trees(shares, similarity))
    plot_routing(folder / "routing.npz", folder / "routing.png")
    drawn = ["routing.png"]
    for name, title, panels in heat_map_figures(shares):
        figure = new_figure()
        draw_heat_maps(figure, [panels], title)
        save_figure(figure, folder / name)
        drawn.append(name)
    if trees:
        draw_trees(trees, folder / "dendrogram.png")
        drawn.append("dendrogram.png")
    return drawn


def heat_map_figures(shares: RoutingShares) -> Iterator[HeatMapFigure]:
    """Yield the figures: the last layers (figure 5), then each stack's first and last layer."""
    into, out_of = directions_of(shares.lang_pairs)
    panels = [
        heat_map(shares, stack, layers_of(shares, stack)[-1], directions)
        for stack, directions in (("encoder", into), ("decoder", out_of))
        if is_drawn(shares, stack, directions)
    ]
    if panels:
        title = "last MoE layers, as in the paper's figure 5"
        yield HeatMapFigure("last_layers.png", title, panels)
    for stack in STACKS:
        for directions in (into, out_of):
            if is_drawn(shares, stack, directions):
                layers = layers_of(shares, stack)
                ends = layers[:1] if len(layers) == 1 else [layers[0], layers[-1]]
                yield HeatMapFigure(
                    f"{stack}_{directions.name}.png",
                    figure_title(shares.about, stack, directions),
                    [heat_map(shares, stack, layer, directions) for layer in ends],
                )


def figure_title(about: Dict[str, str], stack: str, directions: Directions) -> str:
    """Return the title of a stack's figure, with the corresponding figures of the paper."""
    kind = about.get(f"{stack} router")
    routed = f", routed by {kind}" if kind else ""
    text = about.get("decoder reads") if stack == "decoder" else None
    read = f", reading {text}" if text else ""
    number = "10-11" if kind in TASK_KINDS else "6-9"
    return f"{stack} of {directions.name}{routed}{read}\nas in the paper's figures {number}"


def heat_map(shares: RoutingShares, stack: str, layer: int, directions: Directions) -> HeatMap:
    """Return the panel of one layer for some directions."""
    return HeatMap(
        f"{stack} layer {layer}, {directions.name}",
        [shares.lang_pairs[row] for row in directions.rows],
        shares.layers[stack, layer][directions.rows],
    )


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


def find_trees(shares: RoutingShares, similarity: JensenShannon) -> Iterator[Tree]:
    """Yield a tree of the directions for the last MoE layer of each stack, by average linkage.

    The distance of two clusters is the mean Jensen-Shannon distance of their members.
    """
    for stack in STACKS:
        for directions in directions_of(shares.lang_pairs):
            if is_drawn(shares, stack, directions):
                layer = layers_of(shares, stack)[-1]
                values = similarity.layers[stack, layer]
                # the values of a direction without routed text are NaN
                rows = [row for row in directions.rows if not np.isnan(values[row, row])]
                if len(rows) > 1:
                    distances = 1 - values[np.ix_(rows, rows)]
                    yield Tree(
                        f"{stack} layer {layer}, {directions.name}",
                        [similarity.lang_pairs[row] for row in rows],
                        linkage(squareform(distances, checks=False), "average"),
                    )


def draw_trees(trees: Sequence[Tree], path: Path) -> None:
    """Draw trees side by side, with the leaves on the left."""
    figure = new_figure()
    rows = max(len(tree.lang_pairs) for tree in trees)
    figure.set_size_inches(2.9 * len(trees), max(1.8, 0.18 * rows) + 1)
    figure.suptitle("average linkage of Jensen-Shannon distances between directions", fontsize=10)
    # one scale for all
    longest = max(float(tree.merges[:, 2].max()) for tree in trees) or 1.0
    for tree, axis in zip(trees, figure.subplots(1, len(trees), squeeze=False)[0], strict=True):
        dendrogram(
            tree.merges, labels=tree.lang_pairs, orientation="right", ax=axis,
            color_threshold=0, above_threshold_color="black", leaf_font_size=7,
        )
        axis.set_xlim(0, longest * 1.05)
        axis.set_title(tree.title, fontsize=9)
        axis.set_xlabel("Jensen-Shannon distance", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "left", "right"]].set_visible(False)
    save_figure(figure, path)
