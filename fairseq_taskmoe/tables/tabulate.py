"""All tables and figures of an experiment, written into one folder."""

import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

from ..errors import refuse
from ..files import new_folder
from ..plotting import FIGURE_FORMATS, can_plot
from ..version import __version__
from .experiment import Experiment
from .figure2 import draw
from .figure3 import draw_figure3, figure3_table
from .own import own_tables
from .paper import Paper
from .speed import figure_report, figure_tables
from .sweep import architecture
from .table import Table, latex, markdown, to_json, tsv
from .table1_table9 import table1, table9
from .table2 import table2
from .table4_to_6 import direction_tables, table4, zero_shot_table
from .table7_table8 import table7, table8

FORMATS: Dict[str, Callable[[Sequence[Table]], str]] = {"md": markdown, "tex": latex}
OUTPUTS = re.compile(
    r"(table\d|figure\d|systems|directions)(-[a-z\d-]+)?\.(md|tex|tsv|png|pdf)|tables\.json"
)


def write_tables(
    experiment: Experiment, out: str, formats: Sequence[str], window: int, overwrite: bool,
    only_run: bool = False,
) -> List[str]:
    """Write all tables and figures into the folder out; return lines for the user.

    out is written whole or not at all. An existing folder is refused; with overwrite it is replaced
    if it contains only tables and figures. window: languages that figure 3's trend line averages
    over. With only_run, only tables of the systems that were run, without the paper's numbers.
    """
    lines: List[str] = []
    with _folder(out, overwrite) as folder:
        if only_run:
            documents, figures = own_tables(experiment), []
        else:
            documents = {**score_tables(experiment), **parameter_tables(experiment)}
            figures = _figures(experiment, window, folder, lines)
        with_figures = {**documents, **{
            name: own for name in ("figure2", "figure4")
            if (own := [table for table in figures if table.name.startswith(name)])
        }}
        for name, tables in with_figures.items():
            for suffix, text in FORMATS.items():
                if suffix in formats:
                    (folder / f"{name}.{suffix}").write_text(text(tables), encoding="utf-8")
        for table in [table for tables in documents.values() for table in tables]:
            if "tsv" in formats:
                (folder / f"{table.name}.tsv").write_text(tsv(table), encoding="utf-8")
        for table in figures:  # in every format: a figure is drawn from this table
            (folder / f"{table.name}.tsv").write_text(tsv(table), encoding="utf-8")
        if "json" in formats:
            (folder / "tables.json").write_text(_all_json(documents, figures), encoding="utf-8")
        written = sorted(path.name for path in folder.iterdir())
    return [f"{out}: {', '.join(written)}", *lines]


def score_tables(experiment: Experiment) -> Dict[str, List[Table]]:
    """Return the tables of scores by the name of their file. They do not need torch."""
    paper = Paper()
    return {
        "table1": table1(experiment, paper),
        "table2": table2(experiment, paper),
        "table4": table4(experiment, paper),
        "table5": [
            *direction_tables("table5", "xx-en", experiment, paper),
            *zero_shot_table(experiment, paper),
        ],
        "table6": direction_tables("table6", "en-xx", experiment, paper),
        "table9": table9(experiment, paper),
    }


def parameter_tables(experiment: Experiment) -> Dict[str, List[Table]]:
    """Return the tables of parameters by the name of their file."""
    paper = Paper()
    return {"table7": table7(experiment, paper), "table8": table8(paper)}


def _figures(
    experiment: Experiment, window: int, folder: Path, lines: List[str]
) -> List[Table]:
    """Draw the figures whose data exists; return the tables of their points."""
    paper = Paper()
    drawable = can_plot()
    if not drawable:
        lines.append("matplotlib is missing: figures are written as .tsv only "
                     "(pip install fairseq-taskmoe[plot])")
    tables = []
    for name in ("figure2", "figure4"):
        tables += figure_tables(experiment.speeds, name, paper)
        report = figure_report(experiment.speeds, name)
        if report is None:
            lines.append(f"{name}: not run: throughput.json has nothing for it")
        elif drawable:
            settings = {**report["settings"], "arch": architecture(report)}
            files = [folder / f"{name}.{kind}" for kind in FIGURE_FORMATS]
            draw({**report, "settings": settings}, *files)
    gains = figure3_table(experiment, paper, window)
    if gains is None:
        lines.append("figure3: not run: needs bilingual models, another system with the same "
                     "directions, and languages.yaml")
    else:
        tables.append(gains)
        if drawable:
            draw_figure3(gains, window, *(folder / f"figure3.{kind}" for kind in FIGURE_FORMATS))
    return sorted(tables, key=lambda table: table.name)


def _all_json(documents: Dict[str, List[Table]], figures: Sequence[Table]) -> str:
    content: Dict[str, Any] = {
        "taskmoe": __version__,
        "tables": {t.name: to_json(t) for name in sorted(documents) for t in documents[name]},
        "figures": {table.name: to_json(table) for table in figures},
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _folder(out: str, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder, which replaces out if no exception is raised."""
    if not (overwrite and os.path.isdir(out) and os.listdir(out)):
        with new_folder(out) as folder:
            yield folder
        return
    others = sorted(name for name in os.listdir(out) if not OUTPUTS.fullmatch(name))
    if others:
        refuse(f"--out {out} contains {others[0]}, which is not a table or figure; nothing was "
               "overwritten")
    target = Path(out).resolve()
    fresh, old = (target.with_name(f".{target.name}.{os.getpid()}.{x}") for x in ("new", "old"))
    with new_folder(str(fresh)) as folder:
        yield folder
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old)
