"""Heat-maps of expert use, drawn from a file of routing statistics.

Rows are language pairs and columns are experts, as in the paper's figures 5-11, with one panel for
each MoE layer. P language pairs, E experts.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, Sequence, Union

import numpy as np

from ..plotting import new_figure, save_figure
from .shares import load_shares

PANELS_PER_ROW = 4
COLOURS = "magma_r"


def plot_routing(npz_path: Union[str, Path], out_path: Union[str, Path]) -> None:
    """Draw every MoE layer of npz_path (see load_shares) into one figure at out_path.

    The ending of out_path chooses the format (.png, .pdf, .svg, ...). Panels are named by fairseq's
    layer indices, which count from 0: with --moe-freq 2 the first one is layer 1. Refuses an
    unreadable file, an unknown format, a missing folder and a missing matplotlib.
    """
    figure = new_figure()
    lang_pairs, layers, _ = load_shares(npz_path)
    panels = []  # encoder and decoder are never in the same line
    for stack in ("encoder", "decoder"):
        own = [
            HeatMap(f"{stack} layer {i}", lang_pairs, shares)
            for (other, i), shares in layers.items() if other == stack
        ]
        panels += [own[i : i + PANELS_PER_ROW] for i in range(0, len(own), PANELS_PER_ROW)]
    draw_heat_maps(figure, panels)
    save_figure(figure, out_path)


class HeatMap(NamedTuple):
    """One panel."""

    title: str
    lang_pairs: Sequence[str]  # P
    shares: np.ndarray  # (P, E)


def draw_heat_maps(figure: Any, lines: Sequence[Sequence[HeatMap]], title: str = "") -> None:
    """Draw lines of panels, which may have different lengths, below a title.

    All panels have the same colour scale from 0 to 1. Colours follow the square root of the share:
    a share of 0.03, which is even use of 32 experts, would otherwise look like no use.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    columns = max(map(len, lines))
    experts = max(panel.shares.shape[1] for line in lines for panel in line)
    rows = max(len(panel.lang_pairs) for line in lines for panel in line)
    # inches: at least 0.16 for a cell, so that its label fits, and room for titles and labels
    panel_width = max(2.4, 0.16 * experts) + 0.9
    panel_height = max(1.5, 0.16 * rows) + 0.7
    title_height = 0.6 if title else 0
    figure.set_size_inches(columns * panel_width + 0.9, len(lines) * panel_height + title_height)
    if title:
        figure.suptitle(title, fontsize=10)

    norm = PowerNorm(0.5, vmin=0, vmax=1)
    all_axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, axes in zip(lines, all_axes, strict=True):
        for axis in axes[len(line) :]:
            axis.set_axis_off()
        for panel, axis in zip(line, axes, strict=False):
            axis.imshow(panel.shares, norm=norm, cmap=COLOURS, aspect="auto")
            axis.set_title(panel.title, fontsize=9)
            step = math.ceil(panel.shares.shape[1] / 16)
            axis.set_xticks(range(0, panel.shares.shape[1], step))
            axis.set_yticks(range(len(panel.lang_pairs)), panel.lang_pairs)
            axis.set_xlabel("expert", fontsize=8)
            axis.tick_params(labelsize=7, length=0)
            # white lines between the cells
            axis.set_xticks(np.arange(0.5, panel.shares.shape[1] - 1), minor=True)
            axis.set_yticks(np.arange(0.5, len(panel.lang_pairs) - 1), minor=True)
            axis.grid(which="minor", color="white", linewidth=0.6)
            axis.tick_params(which="minor", length=0)
            axis.spines[:].set_visible(False)
    scale = ScalarMappable(norm, COLOURS)
    bar = figure.colorbar(
        scale, ax=all_axes, ticks=[0, 0.05, 0.1, 0.25, 0.5, 0.75, 1], aspect=40, pad=0.02
    )
    bar.set_label("share of the direction's\nrouted positions", fontsize=8)
    bar.ax.tick_params(labelsize=7)
