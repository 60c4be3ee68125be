"""Figure 3: what each system gains over bilingual models, languages in order of their corpora.

Drawn from a table, never from a model. Trend lines are means over neighbouring languages, as in the
GShard paper, which takes 10 of its 100.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from .experiment import SIDES, Experiment, side_of
from .paper import Paper
from .table import Cell, Column, Note, Row, Table


def figure3_table(experiment: Experiment, paper: Paper, window: int) -> Optional[Table]:
    """Return the points of figure 3; None without bilingual models or sizes of corpora."""
    bilingual = experiment.systems.get("bilingual")
    if bilingual is None or not experiment.languages:
        return None
    rows: list[Row] = []
    for name in paper.ordered(experiment.systems):
        system = experiment.systems.get(name)
        if system is None or name == "bilingual":
            continue
        for side in SIDES:
            points: list[Row] = []
            for code, language in experiment.languages.items():  # most text first
                for pair in bilingual.directions:
                    score, floor = system.score(pair), bilingual.score(pair)
                    if side_of(pair) == (side, code) and score and floor:
                        points.append({
                            "system": name, "side": side, "language": code,
                            "train_pairs": language.train_pairs,
                            "delta_bleu": score.mean - floor.mean,
                        })
            trend = smooth([_float(point["delta_bleu"]) for point in points], window)
            rows += [{**p, "trend": mean} for p, mean in zip(points, trend, strict=True)]
    columns = [
        Column("system", "system"), Column("side", "side"), Column("language", "language"),
        Column("train_pairs", "train pairs"), Column("delta_bleu", "delta BLEU", 2),
        Column("trend", "trend", 2),
    ]
    notes = [Note(f"trend: mean over a window of {window} languages, at the ends of those there.")]
    title = "Figure 3. BLEU over bilingual models"
    return Table("figure3", title, columns, rows, notes) if rows else None


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return centred moving means of N values; at the ends, means of what the window covers."""
    before, after = (window - 1) // 2, window // 2
    return [
        sum(part) / len(part)
        for i in range(len(values))
        for part in [values[max(0, i - before):i + after + 1]]
    ]


def plotting_works() -> bool:
    """Tell whether figures can be drawn here."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw_figure3(table: Table, window: int, path: Path) -> None:
    """Draw the points of figure 3, and their trend lines, into a .png file."""
    # importing fairseq sets the whole process to logging.DEBUG, and matplotlib debugs at length
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # pyplot would look for a display

    languages = list(dict.fromkeys(row["language"] for row in sorted(
        table.rows, key=lambda row: (-_float(row["train_pairs"]), str(row["language"])))))
    systems = list(dict.fromkeys(row["system"] for row in table.rows))
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for side, axis in zip(SIDES, figure.subplots(1, 2, sharey=True), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        for number, system in enumerate(systems):
            points = [row for row in table.rows if (row["system"], row["side"]) == (system, side)]
            places = [languages.index(point["language"]) for point in points]
            style: dict[str, Any] = {"color": colormaps["tab20"](number % 20)}
            axis.plot(places, [p["delta_bleu"] for p in points], "o", alpha=0.4, ms=3, **style)
            axis.plot(places, [p["trend"] for p in points], label=str(system), **style)
        axis.set_xticks(range(len(languages)), languages)
        axis.set_title(f"{SIDES[side]}, window of {window} languages", fontsize=9)
        axis.set_xlabel("language, most training text first")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("BLEU over bilingual models")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=150)


def _float(cell: Cell) -> float:
    assert isinstance(cell, (int, float))
    return float(cell)
