"""Heat-maps of expert use, drawn from a file of routing statistics and never from a model.

Rows are language pairs, columns are experts, as in the paper's figures 5-11; one panel for each MoE
layer and side. P language pairs, E experts.
"""

import logging
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, Sequence, Union

import numpy as np

from ..errors import refuse

LayerName = tuple[str, int]  # stack, and index of the layer from 0
NAMES = re.compile(r"(encoder|decoder)\.layers\.(\d+)|about")
PANELS_PER_ROW = 4
COLOURS = "magma_r"


class RoutingShares(NamedTuple):
    """How much of its text each direction sent to each expert."""

    lang_pairs: list[str]  # P
    # by (side, index of the layer), encoder first; each (P, E), rows summing to 1, or to 0 for a
    # direction of which nothing was routed
    layers: dict[LayerName, np.ndarray]
    about: dict[str, str]  # how they were measured; empty for a file that does not say it


def load_shares(path: Union[str, Path]) -> RoutingShares:
    """Read an .npz with lang_pairs (P,) and encoder.layers.{i}, decoder.layers.{i} (P, E).

    Names and values in `about` (N, 2) are read too; other arrays in the file are passed over.
    Refuses what is no such file.
    """
    lang_pairs, arrays = read_arrays(path, NAMES)
    about = arrays.pop("about", np.empty((0, 2), dtype=str))
    if about.dtype.kind != "U" or about.ndim != 2 or about.shape[1] != 2:
        refuse(f"{path}: about is not a list of names and values")
    if not arrays or not all(array.size for array in (lang_pairs, *arrays.values())):
        refuse(f"{path}: nothing to draw, it lacks MoE layers, language pairs or experts")
    layers = {}
    for name, shares in arrays.items():
        if shares.dtype.kind != "f" or shares.ndim != 2 or len(shares) != len(lang_pairs):
            refuse(f"{path}: {name} is not an array of {len(lang_pairs)} rows of shares")
        totals = shares.sum(axis=1, dtype=np.float64)
        # isclose is false for NaN, so that NaN ends here too
        if (shares < 0).any() or not (np.isclose(totals, 1, atol=1e-3) | (totals == 0)).all():
            refuse(f"{path}: {name} has rows that are not shares summing to 1")
        side, _, index = name.split(".")
        layers[side, int(index)] = shares
    encoder_first = sorted(layers, key=lambda layer: (layer[0] != "encoder", layer[1]))
    return RoutingShares(
        lang_pairs.tolist(), {layer: layers[layer] for layer in encoder_first}, dict(about.tolist())
    )


def read_arrays(
    path: Union[str, Path], names: re.Pattern[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return lang_pairs (P,) of a routing file, and its arrays of these names.

    Refuses what is no routing file; what is in the arrays remains to be looked at.
    """
    try:
        with zipfile.ZipFile(path):  # np.load would call every other file a pickle
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {
                name: archive[name]
                for name in archive.files
                if name == "lang_pairs" or names.fullmatch(name)
            }
    except OSError as error:
        refuse(f"cannot read {path}: {error.strerror or error}")
    # a cut-off or damaged archive, or one of Python objects, which must not be unpickled; of
    # damage zipfile, zlib and numpy complain in a dozen ways, tokenize.TokenError among them
    except Exception as error:
        refuse(f"{path} is not a routing file: {' '.join(str(error).split())}")

    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands out other members as they are
            refuse(f"{path} is not a routing file: {name} is no array")
    lang_pairs = arrays.pop("lang_pairs", None)
    if lang_pairs is None or lang_pairs.ndim != 1 or lang_pairs.dtype.kind != "U":
        refuse(f"{path} is not a routing file: it has no list of strings 'lang_pairs'")
    return lang_pairs, arrays


def plot_routing(npz_path: Union[str, Path], out_path: Union[str, Path]) -> None:
    """Draw every MoE layer of npz_path (see load_shares) into one figure at out_path.

    The ending of out_path chooses the format (.png, .pdf, .svg, ...). Panels are named after
    fairseq's layer indices, which count from 0: with --moe-freq 2 the first one is layer 1.
    Refuses an unreadable file, an unknown format, a folder that is not there, and a missing
    matplotlib.
    """
    figure = new_figure()
    lang_pairs, layers, _ = load_shares(npz_path)
    # encoder and decoder never share a line of panels
    lines = []
    for side in ("encoder", "decoder"):
        own = [layer for layer in layers if layer[0] == side]
        lines += [own[i : i + PANELS_PER_ROW] for i in range(0, len(own), PANELS_PER_ROW)]
    panels = [
        [HeatMap(f"{side} layer {i}", lang_pairs, layers[side, i]) for side, i in line]
        for line in lines
    ]
    draw_heat_maps(figure, panels)
    save_figure(figure, out_path)


class HeatMap(NamedTuple):
    """One panel."""

    title: str
    lang_pairs: Sequence[str]  # P
    shares: np.ndarray  # (P, E)


def draw_heat_maps(figure: Any, lines: Sequence[Sequence[HeatMap]], title: str = "") -> None:
    """Draw lines of panels, which need not be of the same length, under a title.

    All share one colour scale from 0 to 1, on which colours follow the square root of the share:
    even use of 32 experts is 0.03 and would otherwise look like no use.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    columns = max(map(len, lines))
    experts = max(panel.shares.shape[1] for line in lines for panel in line)
    rows = max(len(panel.lang_pairs) for line in lines for panel in line)
    # inches: at least 0.16 a cell, as a label needs that, and room for titles and labels
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


def new_figure() -> Any:
    """Return an empty figure of matplotlib's; refuses if there is no matplotlib."""
    # importing fairseq sets the whole process to logging.DEBUG, and matplotlib debugs at length
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        # pyplot would look for a display and keep every figure in memory
        from matplotlib.figure import Figure
    except ImportError:
        refuse("figures need matplotlib: pip install fairseq-taskmoe[plot]")
    return Figure(layout="constrained")


def save_figure(figure: Any, out_path: Union[str, Path]) -> None:
    """Write a figure in the format that the ending says, whole or not at all."""
    out_path = Path(out_path)
    formats = figure.canvas.get_supported_filetypes()
    file_format = out_path.suffix[1:].lower()
    if file_format not in formats:
        refuse(f"cannot draw {out_path}: its ending is none of {', '.join(sorted(formats))}")
    temporary = out_path.with_name(f".{out_path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=file_format, dpi=150)
        os.replace(temporary, out_path)
    except OSError as error:
        refuse(f"cannot write {out_path}: {error.strerror or error}")
    finally:
        temporary.unlink(missing_ok=True)
