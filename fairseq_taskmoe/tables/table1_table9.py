"""Tables 1 and 9: means over groups of directions, ours beside the paper's."""

from typing import Any

from ..evaluation.significance import SIGNIFICANT
from .experiment import (
    SIDES,
    Experiment,
    System,
    run_status,
    scored_metrics,
    side_of,
    split_seed,
)
from .notes import circumstance_notes, comparison_notes
from .paper import Paper
from .speed import peak_speed, speed_note
from .table import OURS, PAPER, Cell, Column, Note, Row, Table

GROUPS = {"all": "average", "xx-en": "xx→en", "en-xx": "en→xx", "high": "high", "low": "low"}
CHRF = {"chrfpp": "chrF++", "chrf": "chrF", "floor_copy_chrf": "copy chrF",
        "floor_nearest_chrf": "nearest chrF"}


def table1(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return the grid of routings: BLEU, chrF, and BLEU of what all rows have in common."""
    zero_shot = [pair for pair in experiment.directions if side_of(pair) is None]
    notes = [
        *comparison_notes(experiment, experiment.directions),
        *_notes(experiment, zero_shot),
        *paper.notes("table1"),
        *circumstance_notes(experiment),
    ]
    tables = [
        _bleu_table(experiment, paper, zero_shot, notes), _chrf_table(experiment, paper)
    ]
    common = _common_directions(experiment)
    if common and any(set(s.directions) != set(common) for s in experiment.systems.values()):
        tables.append(_common_table(experiment, paper, common))
    return tables


def table9(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return means over classes of languages, out of and into English."""
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
    for metric, field in scored_metrics(experiment).items():
        notes = [
            Note("Ours: means over the directions with English of each class of languages."),
            *comparison_notes(experiment, english, metric),
        ]
        if not experiment.languages:
            notes.append(Note("No languages.yaml: the classes of our languages are unknown."))
        rows: list[Row] = []
        for name in paper.ordered(experiment.systems):
            system = experiment.systems.get(name)
            printed = paper.row("table9", name) if metric == "BLEU" else {}
            if system or printed:
                ours = _class_means(system, experiment, field) if system else {}
                rows.append({
                    "system": name, "whose": OURS, "run": run_status(system, english), **ours
                })
            if printed:
                rows.append({"system": name, "whose": PAPER, **printed})
        if metric == "BLEU":
            title = "Table 9. Languages by the size of their corpora, in BLEU"
            notes += paper.notes("table9")
            tables.append(Table("table9", title, columns, rows, notes))
        else:
            tables.append(Table("table9-chrfpp", metric, columns, rows, notes))
    return tables


def _bleu_table(
    experiment: Experiment, paper: Paper, zero_shot: list[str], notes: list[Note]
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
            f"Against {tested['baseline']}: mean difference in BLEU, and in how many directions "
            f"it is significant (paired bootstrap on {tested.get('metric', 'bleu')}, "
            f"p < {SIGNIFICANT}, each direction by itself)."
        )]
        if any(split_seed(folder)[1] > 1 for folder in tested["rows"]):
            notes.append(Note(
                "It tests the first seed of a row alone; tables 5 and 6 have every seed."
            ))
    rows: list[Row] = []
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
    return Table("table1", "Table 1. What experts are routed by, in BLEU", columns, rows, notes)


def _chrf_table(experiment: Experiment, paper: Paper) -> Table:
    """Return chrF beside its floors, which a model that has learnt to translate is above."""
    rows: list[Row] = []
    for name in paper.ordered(experiment.systems):
        system = experiment.systems.get(name)
        means = system.means(experiment.resources) if system else {}
        row: Row = {"system": name, "run": run_status(system, experiment.directions)}
        for group, fields in means.items():
            row |= {f"{field} {group}": fields.get(field) for field in CHRF}
        rows.append(row)
    columns = [Column(f"{field} all", title) for field, title in CHRF.items()]
    for group, name in list(GROUPS.items())[1:]:
        # zero-shot directions have no nearest training sentence: "all" of a row with them has none
        shown = tuple(CHRF) if group in SIDES else ("chrfpp",)
        columns += [Column(f"{field} {group}", f"{CHRF[field]} {name}") for field in shown]
    # floors and chrF++ are not in all results
    columns = [column for column in columns if any(row.get(column.key) for row in rows)]
    columns = [Column("system", "system"), Column("run", "run"), *columns]
    notes = [
        Note("Means over the directions of a row. Floors: the source itself taken for its "
             "translation (copy), and the translation of the most similar training sentence "
             "(nearest)."),
        *(note for metric in ("chrF", "chrF++")
          for note in comparison_notes(experiment, experiment.directions, metric)),
    ]
    return Table("table1-chrf", "chrF and its floors", columns, rows, notes)


def _common_table(experiment: Experiment, paper: Paper, common: list[str]) -> Table:
    """Return means over the directions that all rows have: those do compare."""
    rows: list[Row] = []
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


def _common_directions(experiment: Experiment) -> list[str]:
    return [
        pair for pair in experiment.directions
        if all(pair in system.directions for system in experiment.systems.values())
    ]


def _routing(paper: Paper, name: str) -> str:
    """Return what routes a system's stacks, as in the paper's table: token / target."""
    known = paper.systems.get(name)
    if known is None:
        return "-"
    return known.title if known.encoder == "dense" else f"{known.encoder} / {known.decoder}"


def _experts(experiment: Experiment, name: str) -> Cell:
    """Return the experts used of encoder and decoder: 4 of 8 / 5 of 8."""
    found = experiment.experts_used.get(name)
    if not found:
        return None
    return " / ".join(str(found.get(stack, "-")) for stack in ("encoder", "decoder"))


def _notes(experiment: Experiment, zero_shot: list[str]) -> list[Note]:
    """Return what the means are over."""
    total = len(experiment.directions)
    unseen = f"of which zero-shot {', '.join(zero_shot)}" if zero_shot else "none of them zero-shot"
    notes = [
        Note(f"Ours: unweighted means over the directions of a row, at most {total}, {unseen}."),
        Note("Rows with fewer directions than others do not compare with them."),
        Note("±: standard deviation over seeds; a row without one has a single seed."),
        Note("Experts used: those of a layer that any direction's text is sent to, mean over the "
             "MoE layers of encoder / decoder (`taskmoe routing`, first seed)."),
    ]
    if not experiment.languages:
        notes.append(Note("No languages.yaml: high and low are unknown."))
    notes.append(speed_note(experiment.speeds))
    return notes


def _significance(tested: dict[str, Any], name: str) -> Cell:
    if name == tested["baseline"]:
        return "baseline"
    tests = list(tested["rows"].get(name, {}).values())
    if not tests:
        return None
    mean = sum(test["delta_bleu"] for test in tests) / len(tests)
    clear = [test["delta_bleu"] for test in tests if test["p"] < SIGNIFICANT]
    better, worse = sum(delta > 0 for delta in clear), sum(delta < 0 for delta in clear)
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
