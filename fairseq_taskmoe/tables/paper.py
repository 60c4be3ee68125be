"""The paper's numbers, as the tables show them."""

from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

import yaml

from ..metrics.registry import ScoreMetric
from .table import Column, Note, Row, Table


class PaperSystem(NamedTuple):
    """A row of the tables: a system of the paper, or one of ours."""

    title: str
    encoder: str  # --encoder-moe-router; dense: a model without experts
    decoder: str
    speed: Optional[str] = None  # the variant of `taskmoe bench decode` with the same layers


class Paper:
    """The contents of paper.yaml."""

    def __init__(self) -> None:
        path = Path(__file__).with_name("paper.yaml")
        self.content: Dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.languages: List[str] = self.content["languages"]

    @cached_property
    def systems(self) -> Dict[str, PaperSystem]:
        """Return all systems by name, in the order of the tables."""
        return {name: PaperSystem(**entry) for name, entry in self.content["systems"].items()}

    def ordered(self, found: Iterable[str]) -> List[str]:
        """Return all systems in the order of the tables, then the other names in found."""
        return [*self.systems, *sorted(set(found) - set(self.systems))]

    @cached_property
    def resources(self) -> Dict[str, str]:
        """Return the resource class of each language."""
        high = self.content["high"]
        return {code: "high" if code in high else "low" for code in self.languages}

    def row(self, table: str, system: str, prefix: str = "") -> Row:
        """Return a system's numbers in a table, by column; empty where there are none."""
        entry = self.content[table]
        values = entry["rows"].get(system, ())
        names = [prefix + name for name in entry["columns"]]
        return dict(zip(names, values, strict=True)) if values else {}

    def directions(self, system: str) -> Dict[str, float]:
        """Return a system's BLEU by direction, zero-shot directions last; empty where unknown."""
        entry = self.content["directions"].get(system)
        if entry is None:
            return {}
        return {
            **{f"{x}-en": bleu for x, bleu in zip(self.languages, entry["xx-en"], strict=True)},
            **{f"en-{x}": bleu for x, bleu in zip(self.languages, entry["en-xx"], strict=True)},
            **entry.get("zero-shot", {}),
        }

    def distillation(self, system: str) -> Row:
        """Return a system's BLEU in table 2 by direction, with the printed average and speed."""
        entry = self.content["table2"]
        if system not in entry["rows"]:
            return {}
        return {
            **dict(zip(entry["pairs"], entry["rows"][system], strict=True)),
            "average": entry["average"][system],
            "tokens_per_second": entry["tokens_per_second"][system],
        }

    def notes(self, table: str) -> List[Note]:
        """Return the footnotes of a table or figure."""
        entries = self.content.get(table, {}).get("notes")
        if entries is None:
            entries = self.content["direction_notes"].get(table, [])
        return [Note(" ".join(entry["text"].split()), entry.get("rows", ())) for entry in entries]

    def metric_table(
        self, name: str, title: str, metric: ScoreMetric, columns: List[Column], rows: List[Row],
        notes: List[Note],
    ) -> Table:
        """Return the table of one metric.

        The BLEU table has the title and the paper's footnotes. The tables of the other metrics
        follow it in the same file.
        """
        if metric.name == "bleu":
            return Table(name, f"{title}, in BLEU", columns, rows, [*notes, *self.notes(name)])
        return Table(f"{name}-{metric.name}", metric.title, columns, rows, notes)

