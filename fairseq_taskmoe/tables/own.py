"""Tables of the systems that were run, of any languages, without the paper's numbers."""

from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import refuse
from ..evaluation.results import load_results
from ..evaluation.significance import SIGNIFICANT
from ..evaluation.significance_inputs import row_name
from ..metrics.languages_file import read_languages
from ..metrics.registry import METRICS, ScoreMetric
from ..metrics.scoring import FLOORS
from ..paths import check_path
from .experiment import Experiment, System, make_system, run_status
from .inputs import read_significance
from .notes import comparison_notes, provenance_notes
from .speed import Speeds
from .table import Cell, Column, Note, Row, SeedMean, Table

AVERAGES = {"all": "average", "xx-en": "xx→en", "en-xx": "en→xx"}
Place = Tuple[int, str]  # row and column of a cell


def read_evaluations(
    folders: Sequence[str], languages: Optional[str] = None, significance: Optional[str] = None
) -> Experiment:
    """Read folders of `taskmoe evaluate`, each a system that is named after its folder."""
    systems: Dict[str, System] = {}
    for folder in map(Path, folders):
        check_path(folder)
        name = row_name(folder)
        if name in systems:
            refuse(f"{folder}: a second system {name}; a system is named after its folder")
        systems[name] = make_system(name, folder, [[load_results(folder / "results.json")]])
    known = read_languages(Path(languages)) if languages else {}
    tested = read_significance(Path(significance)) if significance else None
    return Experiment(systems, known, {}, {}, Speeds(None, None, None), tested)


def own_tables(experiment: Experiment) -> Dict[str, List[Table]]:
    """Return the averages of all systems, and for each metric their scores by direction."""
    if "direction" in experiment.systems:
        refuse("a system named `direction`, as the column of directions: rename its folder")
    metrics = [
        metric for name, metric in METRICS.items()
        if any(seed[pair][name] is not None for system in experiment.systems.values()
               for seed in system.seeds for pair in seed)
    ]
    return {
        "systems": [_systems(experiment, metrics)],
        "directions": [_directions(experiment, metric) for metric in metrics],
    }


def _systems(experiment: Experiment, metrics: List[ScoreMetric]) -> Table:
    means = {name: system.means(experiment.resources)
             for name, system in experiment.systems.items()}
    groups = {group: AVERAGES.get(group, group) for fields in means.values() for group in fields}
    columns = [Column("system", "system"), Column("run", "run")]
    for field, title in {**{m.name: m.title for m in metrics}, **FLOORS}.items():
        columns += [
            Column(f"{field} {group}", f"{title} {name}") for group, name in groups.items()
            if any(fields.get(group, {}).get(field) for fields in means.values())
        ]
    rows: List[Row] = [
        {
            "system": name, "run": run_status(experiment.systems[name], experiment.directions),
            **{f"{field} {group}": value for group, values in fields.items()
               for field, value in values.items()},
        }
        for name, fields in means.items()
    ]
    scored = [column.key for column in columns[2:] if column.key.split()[0] in METRICS]
    best = {place for key in scored
            for place in _best({(i, key): row.get(key) for i, row in enumerate(rows)})}
    notes = [
        Note("Unweighted means over the directions of a row; rows with different directions are "
             "not comparable. Best of each column in bold. Floors need no model: copies of the "
             "source, and the translations of the nearest training sentences."),
        *provenance_notes(experiment),
    ]
    return Table("systems", "Systems", columns, rows, notes, best)


def _directions(experiment: Experiment, metric: ScoreMetric) -> Table:
    """Return the scores of a metric: a row for each direction, a column for each system."""
    systems = experiment.systems
    common = experiment.common_directions(experiment.directions, systems)
    rows: List[Row] = [
        {"direction": pair, **{name: system.score(pair, metric.name)
                               for name, system in systems.items()}}
        for pair in experiment.directions
    ]
    if common:
        rows.append({
            "direction": f"average of {len(common)}",
            **{name: system.means(None, common)["all"][metric.name]
               for name, system in systems.items()},
        })
    best = {place for i, row in enumerate(rows)
            for place in _best({(i, name): row[name] for name in systems})}
    tested = experiment.significance
    marks = _marks(experiment, metric)
    notes = [Note("Best of each row in bold."), *comparison_notes(
        experiment, experiment.directions, metric)]
    if tested and marks:
        notes.append(Note(f"\\*: differs from {tested['baseline']} (paired bootstrap, p < "
                          f"{SIGNIFICANT}, each direction tested separately)."))
    columns = [Column("direction", "direction"), *(Column(name, name) for name in systems)]
    return Table(f"directions-{metric.name}", metric.title, columns, rows, notes, best, marks)


def _best(cells: Mapping[Place, Cell]) -> Set[Place]:
    """Return the places of the largest value as it is shown; none if it has no competitor."""
    known = {place: round(cell.mean, 1) for place, cell in cells.items()
             if isinstance(cell, SeedMean)}
    highest: Optional[float] = max(known.values(), default=None)
    found = {place for place, value in known.items() if value == highest}
    return found if len(known) > len(found) else set()


def _marks(experiment: Experiment, metric: ScoreMetric) -> Dict[Place, str]:
    """Return a star for each score that differs significantly from the baseline's."""
    tested = experiment.significance
    if tested is None or tested.get("metric", "bleu") != metric.name:
        return {}
    return {
        (i, name): "*" for name in experiment.systems
        for i, pair in enumerate(experiment.directions)
        if tested["rows"].get(name, {}).get(pair, {"p": 1.0})["p"] < SIGNIFICANT
    }
