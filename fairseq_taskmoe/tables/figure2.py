"""The paper's figure 2: throughput against batch size, drawn from a report, never from a model."""

import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, Union

from ..errors import refuse


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
    formats = sorted(_figure_class()().canvas.get_supported_filetypes())
    if Path(out_path).suffix[1:].lower() not in formats:
        refuse(f"--plot {out_path}: its ending is none of {', '.join(formats)}")
    if not Path(out_path).resolve().parent.is_dir():
        refuse(f"--plot {out_path}: no such folder")


def draw(report: Dict[str, Any], out_path: Union[str, Path]) -> None:
    """Draw a report of bench_decode, or what has been measured of it, into a file."""
    figure = _figure_class()(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for label, points in curves(report).items():
        axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
    axis.set_xscale("log", base=2)
    sizes = sorted({row["batch_size"] for row in report["rows"]})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_ylim(bottom=0)
    processes = report["settings"].get("processes")
    per = f" per process, {processes} processes" if processes else ""
    axis.set_xlabel(f"batch size (sentences{per})")
    axis.set_ylabel("output tokens per second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    settings, machine = report["settings"], report["hardware"]
    device = machine["gpus"][0] if settings["device"] == "cuda" else machine["cpu"]
    axis.set_title(
        f"{settings['arch']}, beam {settings['beam']}, {settings['dtype']}, {device}", fontsize=9
    )
    target = Path(out_path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=150)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _figure_class() -> Type[Any]:
    # importing fairseq sets the whole process to logging.DEBUG, and matplotlib debugs at length
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        from matplotlib.figure import Figure  # pyplot would look for a display
    except ImportError:
        refuse("--plot needs the Python package matplotlib: pip install fairseq-taskmoe[plot]")
    return Figure
