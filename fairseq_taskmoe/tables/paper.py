"""The paper's numbers, as tables take them."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Optional

import yaml

from .table import Note, Row


class PaperSystem(NamedTuple):
    """A row of the paper's tables, or of ours beside them."""

    title: str
    encoder: str  # --encoder-moe-router, dense for a model without experts
    decoder: str
    speed: Optional[str] = None  # variant of `taskmoe bench decode` that has the same layers


class Paper:
    """What paper.yaml holds."""

    def __init__(self) -> None:
        path = Path(__file__).with_name("paper.yaml")
        self.content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.languages: list[str] = self.content["languages"]

    @cached_property
    def systems(self) -> dict[str, PaperSystem]:
        """Return all systems by name, in the order of the tables."""
        return {name: PaperSystem(**entry) for name, entry in self.content["systems"].items()}

    def ordered(self, found: Iterable[str]) -> list[str]:
        """Return all systems in the order of the tables, then those found that are none of them."""
        return [*self.systems, *sorted(set(found) - set(self.systems))]

    @cached_property
    def resources(self) -> dict[str, str]:
        """Return the class of each language."""
        high = self.content["high"]
        return {code: "high" if code in high else "low" for code in self.languages}

    def row(self, table: str, system: str, prefix: str = "") -> Row:
        """Return the numbers that a table has of a system, by column; empty where it has none."""
        entry = self.content[table]
        values = entry["rows"].get(system, ())
        names = [prefix + name for name in entry["columns"]]
        return dict(zip(names, values, strict=True)) if values else {}

    def directions(self, system: str) -> dict[str, float]:
        """Return a system's BLEU by direction, the zero-shot ones last; empty where unknown."""
        entry = self.content["directions"].get(system)
        if entry is None:
            return {}
        return {
            **{f"{x}-en": bleu for x, bleu in zip(self.languages, entry["xx-en"], strict=True)},
            **{f"en-{x}": bleu for x, bleu in zip(self.languages, entry["en-xx"], strict=True)},
            **entry.get("zero-shot", {}),
        }

    def distillation(self, system: str) -> Row:
        """Return a system's BLEU of table 2 by direction, its printed average, and its speed."""
        entry = self.content["table2"]
        if system not in entry["rows"]:
            return {}
        return {
            **dict(zip(entry["pairs"], entry["rows"][system], strict=True)),
            "average": entry["average"][system],
            "tokens_per_second": entry["tokens_per_second"][system],
        }

    def notes(self, table: str) -> list[Note]:
        """Return the footnotes of a table or figure."""
        entries = self.content.get(table, {}).get("notes")
        if entries is None:
            entries = self.content["direction_notes"].get(table, [])
        return [Note(" ".join(entry["text"].split()), entry.get("rows", ())) for entry in entries]

