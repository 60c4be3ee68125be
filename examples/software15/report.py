"""Write RUNS/results.md: every row of the tables with its config, command, and scores.

Reads the results of run_all.sh in RUNS: tables/, ROW/hydra_train.log, ROW/subnets/checks.json.
"""

import argparse
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.evaluation.results import commit, load_results
from fairseq_taskmoe.files import write_atomically
from fairseq_taskmoe.tables.table import NOT_RUN

LOGGED = re.compile(r"^\[([^]]*)\].*- (\{.*\})$")
TABLES = {  # file of taskmoe tabulate -> title
    "table1": "Routing (tables 1 and 5)",
    "table2": "Distillation or extraction (table 2)",
    "table4": "Bilingual models (table 4)",
    "table5": "Into English, and zero-shot (table 5)",
    "table6": "Out of English (table 6)",
    "table9": "By size of the corpora (table 9)",
    "table7": "Parameters (table 7)",
    "table8": "Parameters at web scale (table 8)",
}
FIGURES = {
    "figure2": "tokens/s by batch size", "figure3": "gain over bilingual models",
    "figure4": "tokens/s by batch size, 128 experts",
}


class Training(NamedTuple):
    """The figures of a training log."""

    updates: int
    hours: float  # of training steps, over all runs of a resumed training
    words: float  # mean number of target words in an update


def read_training(log: Path) -> Optional[Training]:
    """Return the figures of hydra_train.log; None if no epoch is finished."""
    if not log.exists():
        return None
    logged: List[Dict[str, Any]] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = LOGGED.match(line)
        with suppress(ValueError):  # a line may be truncated by a kill
            if match:
                logged.append(json.loads(match[2]))
    steps = [entry for entry in logged if "train_wall" in entry and "num_updates" in entry]
    epochs = [entry for entry in logged if "train_num_updates" in entry]
    if not epochs or not steps:
        return None
    return Training(
        updates=int(epochs[-1]["train_num_updates"]),
        hours=sum(float(entry["train_wall"]) for entry in steps) / 3600,
        words=sum(float(entry["wpb"]) for entry in steps) / len(steps),
    )


def run_rows(runs: Path, size: str, tables: Dict[str, Any], rows: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table: row, config, command, the paper's score, ours."""
    heads = ["row", "config", "command", "experts used", "BLEU, paper", "BLEU, ours",
             "into English", "out of English", "zero-shot", "chrF", "updates", "hours"]
    yield _line(heads)
    yield _line(["---", "---", "---", "---", *["---:"] * (len(heads) - 4)])
    bleu, chrf = ({row["system"]: row for row in tables[name]["rows"]}
                  for name in ("table1", "table1-chrf"))
    for row in rows:
        found = bleu.get(row, {})
        training = None if row == "bilingual" else read_training(runs / row / "hydra_train.log")
        if found.get("run", NOT_RUN) == NOT_RUN:
            ours = [NOT_RUN, *["-"] * 4]
        else:
            ours = [_number(found.get(key)) for key in ("all", "xx-en", "en-xx", "zero-shot")]
            ours.append(_number(chrf.get(row, {}).get("chrf all")))
        yield _line([
            row, f"`configs/{row}.yaml`", f"`{_command(runs, row, size)}`",
            found.get("experts") or "-",
            _number(found.get("paper_all")), *ours,
            f"{training.updates:,}" if training else "-",
            f"{training.hours:.2f}" if training else "-",
        ])


def floor_lines(table: Dict[str, Any]) -> Iterator[str]:
    """Yield the scores of two baselines without a model."""
    titles = {"floor_copy_chrf": "copy of the source",
              "floor_nearest_chrf": "translation of the nearest training sentence"}
    for side in ("xx-en", "en-xx"):
        for field, title in titles.items():
            known = [row[f"{field} {side}"] for row in table["rows"] if row.get(f"{field} {side}")]
            if known:
                yield f"- floor, chrF {side}: {title}: {_number(known[0])}"


def extraction_rows(runs: Path) -> Iterator[str]:
    """Yield the lines of a table of sub-networks and their full models."""
    checks = {path.parents[1].name: json.loads(path.read_text(encoding="utf-8"))
              for path in sorted(runs.glob("*/subnets/checks.json"))}
    if not checks:
        yield NOT_RUN
        return
    yield _line(["row", "parameters, full", "sub-network", "BLEU, full", "sub-network",
                 "hypotheses", "different", "of which ties", "largest difference of a log-prob."])
    yield _line(["---", *["---:"] * 8])
    for row, facts in checks.items():
        full, subnet = (list(facts[name].values()) for name in ("bleu_full", "bleu_subnet"))
        yield _line([
            row, f"{facts['parameters_full']:,}", f"{facts['parameters_subnet']:,}",
            f"{sum(full) / len(full):.3f}", f"{sum(subnet) / len(subnet):.3f}",
            f"{facts['hypotheses']:,}", str(facts["different"]), str(facts["of_which_ties"]),
            f"{facts['max_abs_logprob_diff']:.1e}",
        ])


def provenance(runs: Path) -> Iterator[str]:
    """Yield the hardware, commits and versions of trainings and evaluations."""
    trained: Dict[str, List[str]] = {}
    for path in sorted([*runs.glob("*/trained"), *runs.glob("bilingual/*/trained")]):
        lines = path.read_text(encoding="utf-8").splitlines()
        where = lines[1] if len(lines) > 1 else "at an unknown commit"
        trained.setdefault(where, []).append(path.parent.relative_to(runs).as_posix())
    for where, models in trained.items():
        yield f"- trained, {', '.join(models)}: {where}"
    evaluations = set()
    for path in sorted(runs.glob("*/evaluation/results.json")):
        results = load_results(path)
        hardware = ", ".join(f"{name} {value}" for name, value in results.hardware.items())
        versions = ", ".join(f"{name} {value}" for name, value in results.versions.items())
        commit_id = results.commit or "unknown"
        evaluations.add(f"- evaluated with commit `{commit_id}`; {hardware}; {versions}")
    yield from sorted(evaluations)


def routing_lines(runs: Path) -> Iterator[str]:
    """Yield the paths of the routing figures."""
    for folder in sorted(path.parent for path in runs.glob("*/routing/routing.npz")):
        figures = ", ".join(sorted(path.name for path in folder.glob("*.png")))
        yield f"- {folder.parent.name}: `{folder}`: {figures or 'no figures without matplotlib'}"


def embedded(path: Path, title: str) -> Iterator[str]:
    """Yield the content of a table's file under a heading."""
    yield f"## {title}\n"
    if not path.exists():
        yield f"{NOT_RUN}\n"
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    yield "\n".join(f"##{line}" if line.startswith("#") else line for line in lines) + "\n"


def report(runs: Path, size: str) -> str:
    """Return the text of results.md."""
    tables_file = runs / "tables" / "tables.json"
    if not tables_file.exists():
        refuse(f"{tables_file} is missing: taskmoe tabulate {runs} --out {runs}/tables")
    tables = json.loads(tables_file.read_text(encoding="utf-8"))["tables"]
    rows = sorted(path.stem for path in Path("configs").glob("*.yaml"))
    trained = {path.parent.name: read_training(path) for path in runs.glob("*/hydra_train.log")}
    budgets = sorted({f"{one.updates:,} updates of {one.words:,.0f} target words on average"
                      for one in trained.values() if one})
    lines = [
        f"# Results, size `{size}`\n",
        f"Made by `examples/software15/run_all.sh {size}`"
        f" (commit `{commit() or 'unknown'}`). `configs/size/{size}.yaml` holds for all rows.\n",
        *(f"- {budget}" for budget in budgets),
        *provenance(runs), "",
        "## Rows\n",
        *run_rows(runs, size, tables, rows), "", *floor_lines(tables["table1-chrf"]), "",
        "BLEU and chrF are means over a row's directions, including zero-shot, as in the paper "
        "(signatures: below table 1). The paper's scores are of WMT, 32 directions: compare only "
        "the order of the rows. That of `distilled`, over 8 directions, is in table 2. "
        "Hours are wall-clock time of training steps.\n",
        "## Extraction\n", *extraction_rows(runs), "",
        "## Routing (figures 5 to 11)\n", *(list(routing_lines(runs)) or [NOT_RUN]), "",
        "## Figures 2 to 4\n",
        *(f"- {name}, {title}: {_figure(runs, name)}" for name, title in FIGURES.items()), "",
    ]
    speeds = {name: f"Figure {name[-1]}" for name in ("figure2", "figure4")}
    for name, title in {**speeds, **TABLES}.items():
        lines += embedded(runs / "tables" / f"{name}.md", title)
    return "\n".join(lines).rstrip() + "\n"


def _command(runs: Path, row: str, size: str) -> str:
    """Return the command that trains a row's model, with its recorded settings."""
    marks = sorted(runs.glob(f"{row}/trained")) or sorted(runs.glob(f"{row}/*/trained"))
    settings = marks[0].read_text(encoding="utf-8").splitlines()[0] if marks else f"size={size}"
    return " ".join(
        f"fairseq-hydra-train --config-dir configs --config-name {row} {settings}".split()
    )


def _figure(runs: Path, name: str) -> str:
    points = runs / "tables" / f"{name}.tsv"
    return f"`{points.with_suffix('.png')}`, `{points}`" if points.exists() else NOT_RUN


def _number(value: Any) -> str:
    mean = value.get("mean") if isinstance(value, dict) else value
    if mean is None:
        return "-"
    stdev = value.get("stdev") if isinstance(value, dict) else None  # over seeds
    return f"{mean:.1f}" if stdev is None else f"{mean:.1f} ± {stdev:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the experiment")
    parser.add_argument("--size", required=True, help="name of configs/size/SIZE.yaml")
    args = parser.parse_args()
    out = args.runs / "results.md"
    write_atomically(out, report(args.runs, args.size))
    print(f"wrote {out}")


if __name__ == "__main__":
    with command():
        main()
