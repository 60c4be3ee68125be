"""The paper's figure 2: throughput by batch size, drawn from a report of `taskmoe bench decode`."""

from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

from ..errors import refuse
from ..plotting import check_format, new_figure, save_figure

# variants of `taskmoe bench decode` in the legend
WORDS = {
    "dense": "dense",
    "token_token": "token MoE",
    "task": "task MoE, folded",
    "task_routed": "task MoE, through its routers",
    "token_task": "token encoder, task decoder",
    "extracted": "extracted sub-network",
    "padded": "extracted, padded for fairseq",
    "stock_widths": "fairseq with the extracted widths",
}
Point = Tuple[int, float, float]  # batch size, tokens per second, half their interquartile range


def curves(report: Dict[str, Any]) -> Dict[str, List[Point]]:
    """Return by variant the points of the batch sizes that fitted memory."""
    found: Dict[str, List[Point]] = {}
    for row in report["rows"]:
        points = found.setdefault(row["label"], [])
        if row["fits"]:
            speed = row["tokens_per_second"]
            points.append((row["batch_size"], speed, speed * row.get("spread", 0.0)))
    return {label: sorted(points) for label, points in found.items() if points}


def _in_words(label: str) -> str:
    """Return the words for a variant, or for variant@experts."""
    variant, _, experts = label.partition("@")
    return WORDS.get(variant, variant) + (f", {experts} experts" if experts else "")


def check_plot(out_path: Union[str, Path]) -> None:
    """Refuse, before hours of measuring, a figure that could not be drawn."""
    check_format(new_figure(), Path(out_path), "--plot")
    if not Path(out_path).resolve().parent.is_dir():
        refuse(f"--plot {out_path}: no such folder")


def draw(report: Dict[str, Any], *out_paths: Union[str, Path]) -> None:
    """Draw the rows of a report, which may be incomplete, into files."""
    figure = new_figure(figsize=(7, 4.5))
    axis = figure.subplots()
    for label, points in curves(report).items():
        sizes, speeds, spreads = zip(*points, strict=True)
        axis.errorbar(sizes, speeds, spreads, fmt="-o", ms=4, capsize=3, label=_in_words(label))
    axis.set_xscale("log", base=2)
    ticks = sorted({row["batch_size"] for row in report["rows"]})
    axis.set_xticks(ticks, [str(size) for size in ticks])
    axis.set_ylim(bottom=0)
    settings, machine = report["settings"], report["hardware"]
    processes = settings.get("processes")
    per = f" per process, {processes} processes" if processes else ""
    axis.set_xlabel(f"batch size (sentences{per})")
    axis.set_ylabel("output tokens per second\n(bars: half the interquartile range)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    device = machine["gpus"][0] if settings["device"] == "cuda" else machine["cpu"]
    axis.set_title(
        f"{settings['arch']}, beam {settings['beam']}, {settings['dtype']}, {device}", fontsize=9
    )
    for out_path in out_paths:
        save_figure(figure, out_path)
