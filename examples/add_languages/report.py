"""results.md of the recipe, from the results of its models."""

from statistics import fmean
from typing import Any, Dict, Iterator, List, Sequence

from examples.demo.report import PARTS
from fairseq_taskmoe.text_tables import markdown_table

from .claims import CLAIMS, Results
from .plan import HELD_OUT, MODELS, NEW, OLD, TOKENS, Model

SCORES = {"bleu": "BLEU", "chrf": "chrF", "exact": "exact"}
TITLES = {model.name: model.title for model in MODELS}


def report(models: List[Dict[str, Any]]) -> str:
    """Return the text of results.md."""
    results = Results(models)
    seeds = ", ".join(str(model["seed"]) for model in results.of(MODELS[0].name))
    lines = [
        "# Results of adding two languages\n",
        f"Made by `python examples/add_languages/run.py`. Held out: {', '.join(HELD_OUT)}. An "
        f"update has at most {TOKENS:,} tokens. Seed {seeds}; scores are means over seeds.\n",
        *(f"- {where}" for where in sorted({model["provenance"] for model in models})), "",
        "## Claims\n", *_claims(results), "",
        "## Models\n", *_models(results), "",
        f"## The {len(NEW)} new directions\n", *_means(results, NEW), "",
        f"## The {len(OLD)} old directions\n", *_means(results, OLD), "",
        "## Each new direction\n", *_directions(results), "",
        "Scores: greedy search, 100 phrases in each part of the test. Exact: translations that "
        "equal the reference, in percent. Nearest: chrF of the translation of the nearest training "
        "phrase, a baseline without a model.",
    ]
    return "\n".join(lines) + "\n"


def _claims(results: Results) -> Iterator[str]:
    checked = [(claim.text, *claim.check(results)) for claim in CLAIMS]
    rows = [[text, "holds" if holds else "**fails**", figures] for text, holds, figures in checked]
    yield from markdown_table(["claim", "", "figures"], rows, [False] * 3)


def _models(results: Results) -> Iterator[str]:
    rows = []
    for model in MODELS:
        seconds = fmean(one["cpu_seconds"] for one in results.of(model.name))
        rows.append([
            model.title, TITLES.get(str(model.start), "random weights"), str(len(model.trained)),
            f"{model.updates:,}", f"{seconds:.0f}",
        ])
    header = ["model", "starts from", "directions trained", "updates", "CPU-s"]
    yield from markdown_table(header, rows, [False, False, True, True, True])


def _means(results: Results, pairs: Sequence[str]) -> Iterator[str]:
    """Yield the mean scores of directions, and how many of their translations have changed."""
    rows = []
    for model in _scored(pairs):
        row = [model.title, *_cells(results, model.name, pairs, SCORES)]
        if pairs == OLD:
            changes = [one["changed"] for one in results.of(model.name) if one["changed"]]
            changed, total = map(sum, zip(*changes, strict=True)) if changes else (0, 0)
            row.append(f"{changed:,} of {total:,}" if total else "-")
        rows.append(row)
    header = ["model", *_header(SCORES), *(["changed translations"] if pairs == OLD else [])]
    yield from markdown_table(header, rows, [False, *[True] * (len(header) - 1)])


def _directions(results: Results) -> Iterator[str]:
    columns = {**SCORES, "floor_nearest_chrf": "nearest"}
    rows = [
        [pair, model.title, *_cells(results, model.name, [pair], columns)]
        for pair in NEW for model in _scored([pair])
    ]
    header = ["direction", "model", *_header(columns)]
    yield from markdown_table(header, rows, [False, False, *[True] * (len(header) - 2)])


def _scored(pairs: Sequence[str]) -> List[Model]:
    return [model for model in MODELS if set(pairs) <= set(model.scored)]


def _header(columns: Dict[str, str]) -> List[str]:
    return [f"{title}, {part}" for part in PARTS.values() for title in columns.values()]


def _cells(
    results: Results, name: str, pairs: Sequence[str], columns: Dict[str, str]
) -> List[str]:
    return [
        f"{fmean(results.mean(name, pairs, column, [part])):.1f}"
        for part in PARTS for column in columns
    ]
