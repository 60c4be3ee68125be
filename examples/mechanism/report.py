"""results.md and the figure of the study, from the results of its models."""

from statistics import mean, stdev
from typing import Any, Dict, Iterator, List

from fairseq_taskmoe.plotting import new_figure, save_figure
from fairseq_taskmoe.text_tables import markdown_table

from .claims import CLAIMS, Results, spread
from .models import NUM_EXPERTS, NUM_SENTENCES, ROWS, TOP_K, WIDTH
from .plan import INTERFERENCE_COUNTS, INTERFERENCE_ROWS, MAIN_COUNT

TITLES = {
    "dense": "dense", "dense_equal": "dense, equal computation",
    "dense_4x": "dense, 4 times as wide", "dense_parameters": "dense, equal parameters",
}


def title(row: str) -> str:
    """Return the name of a row in text: routers of encoder and decoder."""
    return TITLES.get(row, row.replace("_", "/"))


def report(models: List[Dict[str, Any]]) -> str:
    """Return the text of results.md."""
    results = Results(models)
    seconds = sum(model["cpu_seconds"] for model in models)
    lines = [
        "# Results of the cipher study\n",
        "Made by `python examples/mechanism/run.py`. "
        f"{models[0]['updates']} updates of {NUM_SENTENCES} sentences, width {WIDTH}, "
        f"{NUM_EXPERTS} experts of which each word takes {TOP_K}. "
        f"{len(models)} models, {seconds / 60:.0f} minutes of one core.\n",
        *(f"- {where}" for where in sorted({model["provenance"] for model in models})), "",
        "## Claims\n", *_claims(results), "",
        f"## Routers, {MAIN_COUNT} ciphers\n", *_rows(results), "",
        "Accuracy: test words with the right translation, in percent, mean and standard deviation "
        "over seeds. FLOPs: of the matrix products of a forward pass, for each target word.\n",
        "## Interference: accuracy by number of ciphers\n", *_interference(results), "",
        "![Accuracy against computation, and by number of ciphers](mechanism.png)",
    ]
    return "\n".join(lines) + "\n"


def _claims(results: Results) -> Iterator[str]:
    checked = [(claim.text, *claim.check(results)) for claim in CLAIMS]
    rows = [[text, "holds" if holds else "**fails**", figures] for text, holds, figures in checked]
    yield from markdown_table(["claim", "", "figures"], rows, [False] * 3)


def _rows(results: Results) -> Iterator[str]:
    rows = []
    for row in sorted(ROWS, key=lambda row: -mean(results.accuracies(row))):
        models, accuracies = results.of(row), results.accuracies(row)
        rows.append([
            title(row), spread(accuracies), f"{min(accuracies):.1f}", f"{max(accuracies):.1f}",
            f"{models[0]['parameters']:,}", f"{models[0]['flops_per_word']:,.0f}",
            str(len(models)), f"{mean(model['cpu_seconds'] for model in models):.0f}",
        ])
    header = ["model", "accuracy", "lowest", "highest", "parameters", "FLOPs", "seeds", "CPU-s"]
    yield from markdown_table(header, rows, [False, *[True] * 7])


def _interference(results: Results) -> Iterator[str]:
    rows = [
        [title(row), *(spread(results.accuracies(row, count)) for count in INTERFERENCE_COUNTS)]
        for row in INTERFERENCE_ROWS
    ]
    header = ["model", *map(str, INTERFERENCE_COUNTS)]
    yield from markdown_table(header, rows, [False, *[True] * len(INTERFERENCE_COUNTS)])


def draw(models: List[Dict[str, Any]], path: Any) -> None:
    """Draw accuracy against computation, and against the number of ciphers."""
    results = Results(models)
    figure = new_figure(figsize=(11, 4.8))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_computation(left, results)
    for row in INTERFERENCE_ROWS:
        found = [results.accuracies(row, count) for count in INTERFERENCE_COUNTS]
        right.errorbar(INTERFERENCE_COUNTS, [mean(values) for values in found],
                       [_deviation(values) for values in found], label=title(row), marker="o",
                       ms=4, capsize=2)
    right.set_xscale("log", base=2)
    right.set_xticks(INTERFERENCE_COUNTS, map(str, INTERFERENCE_COUNTS))
    right.set(title="Interference", xlabel="number of ciphers", ylim=(0, 104))
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.set_ylabel("right words, %")
    save_figure(figure, path)


def _draw_computation(axis: Any, results: Results) -> None:
    """Draw a point for each row, and a line through the dense models."""
    from matplotlib import colormaps

    points = {
        row: (results.of(row)[0]["flops_per_word"] / 1000, results.accuracies(row)) for row in ROWS
    }
    dense = sorted((x, mean(values)) for row, (x, values) in points.items() if row in TITLES)
    axis.plot(*zip(*dense, strict=True), color="black", linewidth=1)
    ordered = sorted(points.items(), key=lambda item: -mean(item[1][1]))
    for number, (row, (x, values)) in enumerate(ordered):
        style: Dict[str, Any] = {"color": colormaps["tab20"](number), "marker": "o"}
        if row in TITLES:
            style = {"color": "black", "marker": "sD^v"[list(TITLES).index(row)]}
        axis.errorbar(x, mean(values), _deviation(values), ms=6, capsize=2, linestyle="none",
                      label=title(row), **style)
    axis.legend(fontsize=8, loc="upper right")
    axis.set_xscale("log")
    axis.set_xticks([80, 100, 150, 200], ["80", "100", "150", "200"])
    axis.minorticks_off()
    axis.set(title=f"{MAIN_COUNT} ciphers", xlim=(76, 480), ylim=(0, 108),
             xlabel="thousand FLOPs of a forward pass per word")


def _deviation(values: List[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
