"""The paper's figure 2: throughput by batch size, drawn from a report of `taskmoe bench decode`."""

from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

from ..errors import refuse
from ..plotting import check_format, new_figure, save_figure


def curves(report: Dict[str, Any]) -> Dict[str, List[Tuple[int, float]]]:
    """Return by variant the tokens per second at each batch size that fitted memory."""
    found: Dict[str, List[Tuple[int, float]]] = {}
    for row in report["rows"]:
        points = found.setdefault(row["label"], [])
        if row["fits"]:
            points.append((row["batch_size"], row["tokens_per_second"]))
    return {label: sorted(points) for label, points in found.items() if points}


def check_plot(out_path: Union[str, Path]) -> None:
    """Refuse, before hours of measuring, a figure that could not be drawn."""
    check_format(new_figure(), Path(out_path), "--plot")
    if not Path(out_path).resolve().parent.is_dir():
        refuse(f"--plot {out_path}: no such folder")


def draw(report: Dict[str, Any], out_path: Union[str, Path]) -> None:
    """Draw the rows of a report, which may be incomplete, into a file."""
    figure = new_figure(figsize=(7, 4.5))
    axis = figure.subplots()
    for label, points in curves(report).items():
        axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
    axis.set_xscale("log", base=2)
    sizes = sorted({row["batch_size"] for row in report["rows"]})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_ylim(bottom=0)
    settings, machine = report["settings"], report["hardware"]
    processes = settings.get("processes")
    per = f" per process, {processes} processes" if processes else ""
    axis.set_xlabel(f"batch size (sentences{per})")
    axis.set_ylabel("output tokens per second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    device = machine["gpus"][0] if settings["device"] == "cuda" else machine["cpu"]
    axis.set_title(
        f"{settings['arch']}, beam {settings['beam']}, {settings['dtype']}, {device}", fontsize=9
    )
    save_figure(figure, out_path)
