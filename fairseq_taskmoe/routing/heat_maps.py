"""Heat-maps of expert use: rows are directions, columns are experts, one panel for each MoE layer.

As in the paper's figures 5-11. P language pairs, E experts.
"""

import math
from typing import Any, List, NamedTuple, Sequence

import numpy as np

from .shares import RoutingShares
from .summary import directions_of

PANELS_PER_ROW = 4
COLOURS = "magma_r"
UNUSED, USED = "#e9ebef", "#3b2a78"  # with task routing an expert is a direction's own, or is not


class HeatMap(NamedTuple):
    """One panel."""

    title: str
    labels: Sequence[str]  # P: directions, and headings of groups of them
    shares: np.ndarray  # (P, E); NaN for a heading
    constant: bool = False  # whether all text of a direction takes the same experts


def layer_title(shares: RoutingShares, stack: str, layer: int, group: str = "") -> str:
    """Return the title of a layer, counted from 1 among the MoE layers and among all.

    Its second line has the group of directions, and the router, as far as they are known.
    """
    own = [index for other, index in shares.layers if other == stack]
    router = shares.about.get(f"{stack} routed by", shares.about.get(f"{stack} router"))
    second = ", ".join(filter(None, [group, f"routed by {router}" if router else ""]))
    return (f"{stack.capitalize()}, MoE layer {own.index(layer) + 1} of {len(own)} "
            f"(layer {layer + 1})\n{second}").rstrip()


def heat_map(
    shares: RoutingShares, stack: str, layer: int, rows: Sequence[int], group: str = ""
) -> HeatMap:
    """Return the panel of one layer for some of the P directions; group is named in its title."""
    return HeatMap(
        layer_title(shares, stack, layer, group),
        [shares.lang_pairs[row] for row in rows], shares.layers[stack, layer][list(rows)],
        is_constant(shares, stack),
    )


def is_constant(shares: RoutingShares, stack: str) -> bool:
    """Return whether a stack has a task router; False for files that do not say it."""
    return shares.about.get(f"{stack} experts", "").startswith("constant")


def all_layers(shares: RoutingShares) -> List[List[HeatMap]]:
    """Return lines of panels of all layers, with the directions in groups.

    Encoder and decoder are only in the same line if each has one layer.
    """
    lines: List[List[HeatMap]] = []
    for stack in ("encoder", "decoder"):
        own = [_grouped(heat_map(shares, stack, layer, range(len(shares.lang_pairs))))
               for other, layer in shares.layers if other == stack]
        lines += [own[i : i + PANELS_PER_ROW] for i in range(0, len(own), PANELS_PER_ROW)]
    return [sum(lines, [])] if list(map(len, lines)) == [1, 1] else lines


def _grouped(panel: HeatMap) -> HeatMap:
    """Return a panel with its rows in groups, each with a heading, if there is more than one."""
    groups = [(each.words, each.rows) for each in directions_of(panel.labels) if each.rows]
    others = set(range(len(panel.labels))).difference(*(rows for _, rows in groups))
    if others:
        groups.append(("others", sorted(others)))
    if len(groups) == 1:
        return panel
    labels: List[str] = []
    lines = []
    heading = np.full((1, panel.shares.shape[1]), np.nan)
    for words, rows in groups:
        labels += [words, *(panel.labels[row] for row in rows)]
        lines += [heading, panel.shares[rows]]
    return panel._replace(labels=labels, shares=np.concatenate(lines))


def draw_heat_maps(figure: Any, lines: Sequence[Sequence[HeatMap]], title: str = "") -> None:
    """Draw lines of panels, which may have different lengths, below a title.

    All panels have the same colour scale from 0 to 1. Colours follow the square root of the share:
    a share of 0.03, which is even use of 32 experts, would otherwise look like no use. Where no
    panel depends on the text, there are two colours.
    """
    from matplotlib.colors import ListedColormap, PowerNorm

    columns = max(map(len, lines))
    panels = [panel for line in lines for panel in line]
    experts = max(panel.shares.shape[1] for panel in panels)
    rows = max(len(panel.labels) for panel in panels)
    # inches: at least 0.16 for a cell, so that its label fits, and room for titles and labels
    panel_width = max(2.4, 0.16 * experts) + 0.9
    panel_height = max(1.5, 0.16 * rows) + 0.9
    title_height = 0.4 if title else 0
    figure.set_size_inches(columns * panel_width + 0.9, len(lines) * panel_height + title_height)
    if title:
        figure.suptitle(title, fontsize=10)

    constant = all(panel.constant for panel in panels)
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    colours = ListedColormap([UNUSED, USED]) if constant else COLOURS
    all_axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, axes in zip(lines, all_axes, strict=True):
        for axis in axes[len(line) :]:
            axis.set_axis_off()
        for panel, axis in zip(line, axes, strict=False):
            shown = np.where(np.isnan(panel.shares), np.nan, panel.shares > 0)
            axis.imshow(
                shown if constant else panel.shares, norm=None if constant else norm, cmap=colours,
                vmin=0 if constant else None, vmax=1 if constant else None, aspect="auto",
            )
            _label(axis, panel)
    if constant:
        _add_legend(figure)
    else:
        _add_scale(figure, all_axes, norm)


def _label(axis: Any, panel: HeatMap) -> None:
    axis.set_title(panel.title, fontsize=9)
    step = math.ceil(panel.shares.shape[1] / 16)
    axis.set_xticks(range(0, panel.shares.shape[1], step))
    axis.set_yticks(range(len(panel.labels)), panel.labels)
    for label, row in zip(axis.get_yticklabels(), panel.shares, strict=True):
        if np.isnan(row).all():
            label.set_fontweight("bold")
    axis.set_xlabel("expert", fontsize=8)
    axis.tick_params(labelsize=7, length=0)
    # white lines between the cells
    axis.set_xticks(np.arange(0.5, panel.shares.shape[1] - 1), minor=True)
    axis.set_yticks(np.arange(0.5, len(panel.labels) - 1), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def _add_legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=USED, label="used by the direction"),
                 Patch(color=UNUSED, label="not used")],
        loc="outside lower center", ncols=2, fontsize=8, frameon=False,
    )


def _add_scale(figure: Any, axes: Any, norm: Any) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=axes, ticks=[0, 0.05, 0.1, 0.25, 0.5, 0.75, 1],
        format="{x:.0%}", aspect=40, pad=0.02,
    )
    bar.set_label("share of the direction's\nrouted positions", fontsize=8)
    bar.ax.tick_params(labelsize=7)
