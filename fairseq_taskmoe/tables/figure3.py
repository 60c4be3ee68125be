"""Figure 3: each system's gain over bilingual models, with languages ordered by corpus size.

The figure is drawn from a table. Its trend lines are moving means over neighbouring languages, as
in the GShard paper, which averages over 10 of its 100 languages.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ..plotting import new_figure, save_figure
from .experiment import SIDES, Experiment, side_of
from .paper import Paper
from .table import Cell, Column, Note, Row, Table


def figure3_table(experiment: Experiment, paper: Paper, window: int) -> Optional[Table]:
    """Return the points of figure 3; None without bilingual models or corpus sizes."""
    bilingual = experiment.systems.get("bilingual")
    if bilingual is None or not experiment.languages:
        return None
    rows: List[Row] = []
    for name in paper.ordered(experiment.systems):
        system = experiment.systems.get(name)
        if system is None or name == "bilingual":
            continue
        for side in SIDES:
            points: List[Row] = []
            for code, language in experiment.languages.items():  # the largest corpus first
                for pair in bilingual.directions:
                    score, baseline = system.score(pair), bilingual.score(pair)
                    if side_of(pair) == (side, code) and score and baseline:
                        points.append({
                            "system": name, "side": side, "language": code,
                            "train_pairs": language.train_pairs,
                            "delta_bleu": score.mean - baseline.mean,
                        })
            trend = smooth([_float(point["delta_bleu"]) for point in points], window)
            rows += [{**p, "trend": mean} for p, mean in zip(points, trend, strict=True)]
    columns = [
        Column("system", "system"), Column("side", "side"), Column("language", "language"),
        Column("train_pairs", "train pairs"), Column("delta_bleu", "delta BLEU", 2),
        Column("trend", "trend", 2),
    ]
    notes = [Note(f"trend: mean over a window of {window} languages, smaller at the ends.")]
    title = "Figure 3. BLEU over bilingual models"
    return Table("figure3", title, columns, rows, notes) if rows else None


def smooth(values: Sequence[float], window: int) -> List[float]:
    """Return centred moving means of N values; at the ends the window is smaller."""
    before, after = (window - 1) // 2, window // 2
    return [
        sum(part) / len(part)
        for i in range(len(values))
        for part in [values[max(0, i - before):i + after + 1]]
    ]


def draw_figure3(table: Table, window: int, *paths: Path) -> None:
    """Draw the points of figure 3 and their trend lines into files."""
    figure = new_figure(figsize=(10, 4.5))
    from matplotlib import colormaps

    languages = list(dict.fromkeys(row["language"] for row in sorted(
        table.rows, key=lambda row: (-_float(row["train_pairs"]), str(row["language"])))))
    systems = list(dict.fromkeys(row["system"] for row in table.rows))
    for side, axis in zip(SIDES, figure.subplots(1, 2, sharey=True), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        for number, system in enumerate(systems):
            points = [row for row in table.rows if (row["system"], row["side"]) == (system, side)]
            places = [languages.index(point["language"]) for point in points]
            style: Dict[str, Any] = {"color": colormaps["tab20"](number % 20)}
            axis.plot(places, [p["delta_bleu"] for p in points], "o", alpha=0.4, ms=3, **style)
            axis.plot(places, [p["trend"] for p in points], label=_in_words(str(system)), **style)
        axis.set_xticks(range(len(languages)), languages)
        axis.set_title(SIDES[side], fontsize=9)
        axis.set_xlabel("language, largest corpus first")
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"Gain over bilingual models, and its mean over {window} neighbouring languages",
        fontsize=10,
    )
    figure.axes[0].set_ylabel("BLEU over bilingual models")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=7, loc="outside right upper")
    for path in paths:
        save_figure(figure, path)


def _in_words(system: str) -> str:
    """Return the title of a system with its routers: task MoE (target/target)."""
    known = Paper().systems.get(system)
    if known is None:
        return system
    routers = {known.encoder, known.decoder} - {"dense"}
    return f"{known.title} ({known.encoder}/{known.decoder})" if routers else known.title


def _float(cell: Cell) -> float:
    assert isinstance(cell, (int, float))
    return float(cell)
