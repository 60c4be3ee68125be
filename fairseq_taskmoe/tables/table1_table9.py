"""Tables 1 and 9: means over groups of directions, ours beside the paper's."""

from typing import Any, Dict, List

from ..evaluation.significance import SIGNIFICANT
from ..metrics.registry import METRICS
from ..metrics.scoring import FLOORS
from .experiment import SIDES, Experiment, System, run_status, side_of, split_seed
from .notes import comparison_notes, provenance_notes
from .paper import Paper
from .speed import peak_speed, speed_note
from .table import OURS, PAPER, Cell, Column, Note, Row, Table

GROUPS = {"all": "average", "xx-en": "xx→en", "en-xx": "en→xx", "high": "high", "low": "low"}


def table1(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return the grid of routers: BLEU, other metrics, and BLEU over the common directions."""
    zero_shot = [pair for pair in experiment.directions if side_of(pair) is None]
    notes = [
        *comparison_notes(experiment, experiment.directions),
        *_notes(experiment, zero_shot),
        *paper.notes("table1"),
        *provenance_notes(experiment),
    ]
    tables = [
        _bleu_table(experiment, paper, zero_shot, notes), _chrf_table(experiment, paper)
    ]
    common = experiment.common_directions(experiment.directions, experiment.systems)
    if common and any(set(s.directions) != set(common) for s in experiment.systems.values()):
        tables.append(_common_table(experiment, paper, common))
    return tables


def table9(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return means over the resource classes of languages, from and into English."""
    titles = ["average", "En-X", "X-En"] + [
        f"{side} {group}" for side in ("En-X", "X-En") for group in ("High", "Mid", "Low")
    ]
    keys = paper.content["table9"]["columns"]
    columns = [
        Column("system", "system"), Column("whose", "whose"), Column("run", "run"),
        # the paper prints two decimals here
        *(Column(key, title, 2) for key, title in zip(keys, titles, strict=True)),
    ]
    english = [pair for pair in experiment.directions if side_of(pair)]
    tables = []
    for metric in experiment.metrics_by_direction():
        notes = [
            Note("Ours: means over the directions with English, by class of the other language."),
            *comparison_notes(experiment, english, metric),
        ]
        if not experiment.languages:
            notes.append(Note("No languages.yaml: the classes of our languages are unknown."))
        rows: List[Row] = []
        for name in paper.ordered(experiment.systems):
            system = experiment.systems.get(name)
            printed = paper.row("table9", name) if metric.name == "bleu" else {}
            if system or printed:
                ours = _class_means(system, experiment, metric.name) if system else {}
                rows.append({
                    "system": name, "whose": OURS, "run": run_status(system, english), **ours
                })
            if printed:
                rows.append({"system": name, "whose": PAPER, **printed})
        title = "Table 9. Languages by the size of their corpora"
        tables.append(paper.metric_table("table9", title, metric, columns, rows, notes))
    return tables


def _bleu_table(
    experiment: Experiment, paper: Paper, zero_shot: List[str], notes: List[Note]
) -> Table:
    groups = {**GROUPS, **({"zero-shot": "zero-shot"} if zero_shot else {})}
    tested = experiment.significance
    columns = [
        Column("system", "system"), Column("routing", "encoder / decoder"), Column("run", "run"),
        Column("seeds", "seeds"), Column("experts", "experts used"),
        Column("tokens_per_second", "tok/s", 0),
        Column("paper_tokens_per_second", "paper", 0),
    ]
    for key, title in groups.items():
        columns.append(Column(key, title))
        if key in GROUPS:
            columns.append(Column(f"paper_{key}", "paper"))
    if tested:
        columns.append(Column("significance", f"against {tested['baseline']}"))
        notes = [*notes, Note(
            f"Against {tested['baseline']}: mean difference in BLEU, and the number of directions "
            f"with a significant difference (paired bootstrap on {tested.get('metric', 'bleu')}, "
            f"p < {SIGNIFICANT}, each direction tested separately)."
        )]
        if any(split_seed(folder)[1] > 1 for folder in tested["rows"]):
            notes.append(Note(
                "Only the first seed of a row is tested here; tables 5 and 6 have every seed."
            ))
    rows: List[Row] = []
    for name in paper.ordered(experiment.systems):
        system = experiment.systems.get(name)
        means = system.means(experiment.resources) if system else {}
        rows.append({
            "system": name,
            "routing": _routing(paper, name),
            "experts": _experts(experiment, name),
            "run": run_status(system, experiment.directions),
            "seeds": len(system.seeds) if system else None,
            "tokens_per_second": peak_speed(experiment.speeds, paper, name),
            **{key: means[key]["bleu"] for key in groups if key in means},
            **paper.row("table1", name, "paper_"),
            **({"significance": _significance(tested, name)} if tested else {}),
        })
    return Table("table1", "Table 1. Routers of encoder and decoder, in BLEU", columns, rows, notes)


def _chrf_table(experiment: Experiment, paper: Paper) -> Table:
    """Return the metrics other than BLEU, and the floors of chrF.

    A model that has learnt to translate has a chrF above its floors.
    """
    others = [metric for metric in METRICS.values() if metric.name != "bleu"]
    others.sort(key=lambda metric: not metric.by_direction)
    titles = {**{metric.name: metric.title for metric in others}, **FLOORS}
    rows: List[Row] = []
    for name in paper.ordered(experiment.systems):
        system = experiment.systems.get(name)
        means = system.means(experiment.resources) if system else {}
        row: Row = {"system": name, "run": run_status(system, experiment.directions)}
        for group, fields in means.items():
            row |= {f"{field} {group}": fields.get(field) for field in titles}
        rows.append(row)
    columns = [Column(f"{field} all", title) for field, title in titles.items()]
    for group, name in list(GROUPS.items())[1:]:
        # zero-shot directions have no training data, so that the group "all" may lack a floor
        shown = list(titles) if group in SIDES else [m.name for m in others if m.by_direction]
        columns += [Column(f"{field} {group}", f"{titles[field]} {name}") for field in shown]
    # not all results have floors and chrF++
    columns = [column for column in columns if any(row.get(column.key) for row in rows)]
    columns = [Column("system", "system"), Column("run", "run"), *columns]
    notes = [
        Note("Means over the directions of a row. Floors: the source scored as if it were the "
             "translation (copy), and the translation of the most similar training sentence "
             "(nearest)."),
        *(note for metric in METRICS.values() if metric.name != "bleu"
          for note in comparison_notes(experiment, experiment.directions, metric)),
    ]
    return Table("table1-chrf", "chrF and its floors", columns, rows, notes)


def _common_table(experiment: Experiment, paper: Paper, common: List[str]) -> Table:
    """Return means over the directions that all rows have, which are comparable."""
    rows: List[Row] = []
    for name in paper.ordered(experiment.systems):
        if name in experiment.systems:
            means = experiment.systems[name].means(experiment.resources, common)
            rows.append({
                "system": name, **{key: means[key]["bleu"] for key in GROUPS if key in means}
            })
    columns = [Column("system", "system"), *(Column(k, title) for k, title in GROUPS.items())]
    notes = [Note(f"{len(common)} directions: {', '.join(common)}.")]
    title = "BLEU over the directions that all rows have"
    return Table("table1-common", title, columns, rows, notes)


def _routing(paper: Paper, name: str) -> str:
    """Return a system's routers in the paper's form: token / target."""
    known = paper.systems.get(name)
    if known is None:
        return "-"
    return known.title if known.encoder == "dense" else f"{known.encoder} / {known.decoder}"


def _experts(experiment: Experiment, name: str) -> Cell:
    """Return the experts used in encoder and decoder: 4 of 8 / 5 of 8."""
    found = experiment.experts_used.get(name)
    if not found:
        return None
    return " / ".join(str(found.get(stack, "-")) for stack in ("encoder", "decoder"))


def _notes(experiment: Experiment, zero_shot: List[str]) -> List[Note]:
    """Return which directions the means are over."""
    total = len(experiment.directions)
    unseen = f"of which zero-shot {', '.join(zero_shot)}" if zero_shot else "none of them zero-shot"
    notes = [
        Note(f"Ours: unweighted means over the directions of a row, at most {total}, {unseen}."),
        Note("Rows with different directions are not comparable."),
        Note("±: standard deviation over seeds; a row without one has a single seed."),
        Note("Experts used: the experts of a layer that any direction is routed to, mean over the "
             "MoE layers of encoder / decoder (`taskmoe routing`, first seed)."),
    ]
    if not experiment.languages:
        notes.append(Note("No languages.yaml: high and low are unknown."))
    notes.append(speed_note(experiment.speeds))
    return notes


def _significance(tested: Dict[str, Any], name: str) -> Cell:
    if name == tested["baseline"]:
        return "baseline"
    tests = list(tested["rows"].get(name, {}).values())
    if not tests:
        return None
    mean = sum(test["delta_bleu"] for test in tests) / len(tests)
    significant = [test["delta_bleu"] for test in tests if test["p"] < SIGNIFICANT]
    better, worse = sum(d > 0 for d in significant), sum(d < 0 for d in significant)
    return f"{mean:+.1f}; {better} better, {worse} worse of {len(tests)}"


def _class_means(system: System, experiment: Experiment, field: str) -> Row:
    sides = {pair: found[0] for pair in system.directions for found in [side_of(pair)] if found}
    row: Row = {"all": system.means(None, sides)["all"][field]}
    for side in ("en-xx", "xx-en"):
        pairs = [pair for pair in sides if sides[pair] == side]
        means = system.means(experiment.resources, pairs)
        row[side] = means["all"][field]
        for group in ("high", "mid", "low"):
            row[f"{side} {group}"] = means[group][field] if group in means else None
    return row
