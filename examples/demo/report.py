"""The demo's scores: by direction, by part of the test, by kind of phrase; sample translations.

The floors are two outputs without a model: a copy of the source, and the translation of the nearest
training phrase. Exact: the share of outputs that are equal to the reference.
"""

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any, Dict, List, NamedTuple, Sequence

from examples.demo.prepare import DIRECTIONS
from examples.demo.stages import progress
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.translate import Batching, Search
from fairseq_taskmoe.metrics.floors import nearest_neighbour_translations
from fairseq_taskmoe.metrics.scoring import group_directions, score_direction
from fairseq_taskmoe.read_files import read_lines
from fairseq_taskmoe.text_tables import aligned

SEARCH = Search(beam=1, max_len_b=60)  # greedy
BATCHING = Batching(max_tokens=8000)
RESULTS = ("results.json", "results.md")
PARTS = {"random": "random split", "composed": "unseen combinations"}
COLUMNS = {"bleu": "BLEU", "chrf": "chrF", "exact": "exact", "floor_copy_chrf": "copy",
           "floor_nearest_chrf": "nearest"}  # fmt: skip
# one of each kind; the unseen combinations
SAMPLES = {"en-de": "date", "ru-en": "quantities", "en-hi": "duration", "zh-en": "countries",
           "en-fi": "money", "en-tr": "languages"}  # fmt: skip
LEGEND = """exact: the share of outputs that equal the reference, in %
copy, nearest: chrF of the source, and of the translation of the nearest training phrase
*: chrF is not above both"""
Scores = Dict[str, Any]


class Row(NamedTuple):
    """A test sentence of a direction, with its translations."""

    part: str
    kind: str
    source: str
    output: str
    reference: str
    nearest: str


def translate_and_score(data: Path, checkpoint: Path, out: Path) -> str:
    """Translate the test set; write results.json, results.md and parts.json to out."""
    shutil.rmtree(out / "evaluation", ignore_errors=True)  # of another checkpoint
    results = evaluate(
        str(data), str(checkpoint), str(out / "evaluation"), DIRECTIONS, Settings(search=SEARCH),
        BATCHING, references=str(out / "text"), floors=True, cpu=True,
    )
    assert results is not None  # there is one rank
    for name in RESULTS:
        shutil.copyfile(out / "evaluation" / name, out / name)
    rows = {pair: read_rows(out, pair) for pair in progress(DIRECTIONS, "directions scored")}
    scores = {
        "directions": {pair: by_part(pair, rows[pair]) for pair in DIRECTIONS},
        "kinds": by_kind([row for of_pair in rows.values() for row in of_pair]),
    }
    (out / "parts.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    mean = results.averages["all"]
    return f"{sum(map(len, rows.values())):,} translations, BLEU {mean['bleu']:.1f}, " \
        f"chrF {mean['chrf']:.1f}"


def read_rows(out: Path, pair: str) -> List[Row]:
    """Return the test sentences of a direction."""
    source, target = pair.split("-")
    side = target if source == "en" else source

    def text(split: str, language: str) -> List[str]:
        return read_lines(str(out / "text" / f"{split}.en-{side}.{language}"))

    sources, references = text("test", source), text("test", target)
    nearest = nearest_neighbour_translations(text("train", source), text("train", target), sources)
    outputs = read_lines(str(out / "evaluation" / "hypotheses" / f"test.{pair}.{target}"))
    _, *labels = (line.split("\t") for line in read_lines(str(out / "text" / "test.tsv")))
    return [
        Row(part, kind, *texts)
        for (part, kind), *texts in zip(
            labels, sources, outputs, references, nearest, strict=True
        )
    ]


def by_part(pair: str, rows: Sequence[Row]) -> Dict[str, Scores]:
    """Return the scores of a direction in each part of the test."""
    return {part: score(pair, [row for row in rows if row.part == part]) for part in PARTS}


def score(pair: str, rows: Sequence[Row]) -> Scores:
    sources, outputs, references, nearest = (
        [getattr(row, name) for row in rows]
        for name in ("source", "output", "reference", "nearest")
    )
    scores = score_direction(pair, outputs, references, sources, nearest)
    return {**{name: scores.get(name) for name in COLUMNS}, "exact": share_exact(rows)}


def share_exact(rows: Sequence[Row]) -> float:
    return 100 * fmean(row.output == row.reference for row in rows)


def by_kind(rows: Sequence[Row]) -> Dict[str, Dict[str, float]]:
    """Return the share of exact translations by kind of phrase, over all directions."""
    return {
        kind: {
            part: share_exact(own)
            for part in PARTS
            if (own := [row for row in rows if (row.kind, row.part) == (kind, part)])
        }
        for kind in sorted({row.kind for row in rows})
    }


def is_below_floor(scores: Scores) -> bool:
    return scores["chrf"] <= max(scores["floor_copy_chrf"], scores["floor_nearest_chrf"])


def tables(out: Path) -> str:
    """Return the scores as text: by direction, and by kind of phrase."""
    scores = json.loads((out / "parts.json").read_text(encoding="utf-8"))
    directions, kinds = scores["directions"], scores["kinds"]
    groups = group_directions(list(directions))
    header = ["direction", *(title for _ in PARTS for title in COLUMNS.values())]
    lines: List[List[str]] = [header]
    for title, group in (("into English", groups["xx-en"]), ("out of English", groups["en-xx"])):
        lines += [[pair, *cells(directions[pair])] for pair in group]
        lines.append([title, *cells(means([directions[pair] for pair in group]))])
    lines.append(["all", *cells(means(list(directions.values())))])
    titles, *text = aligned(lines)
    first = len(lines[-2][0])  # the width of the first column
    parts = "".join(title.rjust((len(titles) - first) // len(PARTS)) for title in PARTS.values())
    by_direction = [" " * first + parts, titles, *text]
    by_kind_lines = [["exact, by kind", *PARTS.values()]] + [
        [kind, *(f"{by_part[part]:.0f} %" if part in by_part else "-" for part in PARTS)]
        for kind, by_part in kinds.items()
    ]
    return "\n".join([*by_direction, LEGEND, "", *aligned(by_kind_lines)])


def cells(parts: Dict[str, Scores]) -> List[str]:
    """Return a direction's scores; a star marks a chrF that is not above both floors."""
    return [
        f"{scores[name]:.1f}" + ("*" if name == "chrf" and is_below_floor(scores) else "")
        for scores in parts.values() for name in COLUMNS
    ]


def means(directions: Sequence[Dict[str, Scores]]) -> Dict[str, Scores]:
    return {
        part: {name: fmean(one[part][name] for one in directions) for name in COLUMNS}
        for part in PARTS
    }


def samples(out: Path) -> str:
    """Return a translation of each of six directions, with source and reference."""
    lines = []
    for pair, kind in SAMPLES.items():
        row = next(r for r in read_rows(out, pair) if (r.part, r.kind) == ("composed", kind))
        said = "the same" if row.output == row.reference else row.reference
        lines += [f"{pair}  source     {row.source}", f"       output     {row.output}",
                  f"       reference  {said}"]
    return "\n".join(lines)
