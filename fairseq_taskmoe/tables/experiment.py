"""Reading an experiment's folder for the tables: scores, speeds, sizes, languages.

    RUNS/ROW/evaluation/results.json               by `taskmoe evaluate`; ROW.seed2: another seed
    RUNS/bilingual/PAIR/evaluation/results.json    one model for each direction
    RUNS/ROW/params.json                           by `taskmoe params CKPT --format json`
    RUNS/ROW/routing/routing.npz                   by `taskmoe routing`
    RUNS/throughput.json                           by `taskmoe bench decode --out`
    RUNS/throughput-web.json                       the same with 128 experts, for figure 4
    RUNS/communication.json                        the same with --processes
    RUNS/significance.json                         by `taskmoe compare`
    RUNS/languages.yaml                            de: {train_pairs: 1000, class: high}

Only the first is required. No model is loaded, and torch is not imported.
"""

import re
from pathlib import Path
from typing import Any, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import refuse
from ..evaluation.results import Results, load_results
from ..evaluation.significance_inputs import search_settings
from ..metrics.lang_pairs import is_english, split_pair
from ..metrics.languages_file import Language, read_languages
from ..metrics.registry import METRICS, ScoreMetric
from ..metrics.scoring import FLOORS, DirectionScore, averages
from ..paths import check_path
from .inputs import (
    ExpertsUsed,
    read_experts_used,
    read_parameters,
    read_significance,
    read_throughput,
)
from .speed import Speeds
from .table import NOT_RUN, SeedMean, seed_mean

SIDES = {"xx-en": "xx→en", "en-xx": "en→xx"}
SEED = re.compile(r"(.+)\.seed(\d+)")


class System(NamedTuple):
    """A row of the tables: one configuration, trained with one or several seeds."""

    name: str
    seeds: List[Dict[str, DirectionScore]]  # by seed, then direction
    provenance: List[Tuple[str, str]]  # commit and hardware of its results
    searches: List[Tuple[List[str], Dict[str, Any]]]  # directions and settings of each results file

    @property
    def directions(self) -> List[str]:
        """Return the directions that all seeds were evaluated in."""
        others = self.seeds[1:]
        return [pair for pair in self.seeds[0] if all(pair in seed for seed in others)]

    def score(self, pair: str, field: str = "bleu") -> Optional[SeedMean]:
        """Return a direction's score over the seeds that have it."""
        return seed_mean([seed[pair].get(field) for seed in self.seeds if pair in seed])

    def means(
        self, resources: Optional[Mapping[str, str]], within: Optional[Collection[str]] = None
    ) -> Dict[str, Dict[str, Optional[SeedMean]]]:
        """Return group -> field -> mean over the group's directions, see scoring.averages.

        The directions are those that all seeds have; with `within`, only those in it.
        """
        chosen = self.directions if within is None else [p for p in self.directions if p in within]
        by_seed = [averages({p: seed[p] for p in chosen}, resources) for seed in self.seeds]
        return {
            group: {name: _over_seeds(name, [means[group][name] for means in by_seed])
                    for name in fields}
            for group, fields in by_seed[0].items()
        }


class Experiment(NamedTuple):
    """The contents of a folder of runs."""

    systems: Dict[str, System]  # by name, in alphabetical order
    languages: Dict[str, Language]  # the largest training set first; empty: unknown
    parameters: Dict[str, Dict[str, int]]  # by system, where they were counted
    experts_used: Dict[str, Dict[str, ExpertsUsed]]  # by system and stack, where measured
    speeds: Speeds
    significance: Optional[Dict[str, Any]]

    @property
    def resources(self) -> Optional[Dict[str, str]]:
        """Return the resource class of each language."""
        return {code: lang.resources for code, lang in self.languages.items()} or None

    @property
    def directions(self) -> List[str]:
        """Return the directions that a system should have: of all languages, and of any system."""
        evaluated = {
            pair for system in self.systems.values() for seed in system.seeds for pair in seed
        }
        codes = {code for pair in evaluated for code in split_pair(pair)}
        english = sorted(filter(is_english, codes))  # en, or a form such as en_XX
        planned = [
            pair for code in self.languages for en in english
            for pair in (f"{code}-{en}", f"{en}-{code}")
        ]
        return [*planned, *sorted(evaluated - set(planned))]

    def common_directions(self, pairs: Iterable[str], names: Collection[str]) -> List[str]:
        """Return those of pairs that all systems with these names have; none without systems."""
        systems = [self.systems[name] for name in names if name in self.systems]
        return [pair for pair in pairs if systems and all(pair in s.directions for s in systems)]

    def metrics_by_direction(self) -> List[ScoreMetric]:
        """Return the metrics that have tables by direction and that a results file has."""
        scores = [
            score for system in self.systems.values()
            for seed in system.seeds for score in seed.values()
        ]
        return [
            metric for name, metric in METRICS.items()
            if metric.by_direction and any(score[name] is not None for score in scores)
        ]


def read_experiment(
    runs: str, languages: Optional[str] = None, significance: Optional[str] = None
) -> Experiment:
    """Read a folder of runs; languages and significance are the paths of files outside of it.

    Refuses a folder without results, and damaged files, which it names.
    """
    folder = Path(runs)
    if not folder.is_dir():
        refuse(f"{runs}: no such folder")
    systems = _read_systems(folder)
    if not systems:
        refuse(f"{runs}: no results: expected ROW/evaluation/results.json, of taskmoe evaluate")
    listing = Path(languages) if languages else folder / "languages.yaml"
    known = read_languages(listing) if languages or listing.exists() else {}
    experiment = Experiment(
        systems=systems,
        languages=known,
        parameters={
            name: read_parameters(folder / name / "params.json")
            for name in sorted(path.parent.name for path in folder.glob("*/params.json"))
            if not SEED.fullmatch(name)  # all seeds have the same number
        },
        experts_used={
            path.parts[-3]: read_experts_used(path)
            for path in sorted(folder.glob("*/routing/routing.npz"))
            if not SEED.fullmatch(path.parts[-3])  # only the first seed
        },
        speeds=Speeds(
            read_throughput(folder / "throughput.json"),
            read_throughput(folder / "throughput-web.json"),
            read_throughput(folder / "communication.json", communication=True),
        ),
        significance=read_significance(Path(significance or folder / "significance.json")),
    )
    for pair in experiment.directions:
        for code in split_pair(pair):
            if known and not is_english(code) and code not in known:
                refuse(f"{listing}: no entry for the language {code} of the direction {pair}")
    return experiment


def run_status(system: Optional[System], planned: Collection[str]) -> str:
    """Return in how many of the planned directions a system was evaluated, and with which seeds."""
    done = sum(pair in planned for pair in system.directions) if system else 0
    if not system or not done:
        return NOT_RUN
    total = f"{len(planned)} directions"
    seeds = f", {len(system.seeds)} seeds" if len(system.seeds) > 1 else ""
    return (total if done == len(planned) else f"{done} of {total}") + seeds


def side_of(pair: str) -> Optional[Tuple[str, str]]:
    """Return ("xx-en", "de") for "de-en", and None for a direction without English."""
    source, target = split_pair(pair)
    if is_english(source) == is_english(target):
        return None
    return ("en-xx", target) if is_english(source) else ("xx-en", source)


def split_seed(folder: str) -> Tuple[str, int]:
    """Return ("token_target", 2) for "token_target.seed2", and 1 where no seed is named."""
    seeded = SEED.fullmatch(folder)
    return (seeded[1], int(seeded[2])) if seeded else (folder, 1)


def _over_seeds(field: str, values: List[Optional[float]]) -> Optional[SeedMean]:
    """Return a mean over seeds; for a floor, which depends only on the data, that of any seed."""
    if field in FLOORS:
        return seed_mean([value for value in values if value is not None][:1])
    return seed_mean(values)


def _read_systems(folder: Path) -> Dict[str, System]:
    by_name: Dict[str, List[Tuple[int, List[Results]]]] = {}
    for row in sorted(path for path in folder.iterdir() if path.is_dir()):
        check_path(row)
        name, seed = split_seed(row.name)
        whole = row / "evaluation" / "results.json"
        if whole.exists():
            files = [whole]
        elif name == "bilingual":
            files = sorted(row.glob("*/evaluation/results.json"))
        else:
            files = []
        if files:
            by_name.setdefault(name, []).append((seed, [load_results(file) for file in files]))
    return {
        name: make_system(
            name, folder / name, [results for _, results in sorted(runs, key=lambda run: run[0])]
        )
        for name, runs in by_name.items()
    }


def make_system(name: str, folder: Path, by_seed: List[List[Results]]) -> System:
    """Return a row; by_seed has the results files of each seed."""
    files = [one for results in by_seed for one in results]
    return System(
        name,
        [_merged(str(folder), results) for results in by_seed],
        list(dict.fromkeys(map(_provenance, files))),
        [(list(one.directions), search_settings(one.config)) for one in files],
    )


def _merged(folder: str, results: List[Results]) -> Dict[str, DirectionScore]:
    """Return the directions of one row; those of bilingual models are in several files."""
    merged: Dict[str, DirectionScore] = {}
    for one in results:
        if not one.directions:
            refuse(f"{folder}: its results have no direction")
        for pair, score in one.directions.items():
            if pair in merged:
                refuse(f"{folder}: two of its results have scores for {pair}")
            if len([code for code in pair.split("-") if code]) != 2:
                refuse(f"{folder}: its results have {pair!r}, which is not a language pair")
            merged[pair] = score
    return merged


def _provenance(results: Results) -> Tuple[str, str]:
    machine = results.hardware
    gpus = machine.get("gpus") or []
    device = f"{len(gpus)} x {gpus[0]}" if gpus else f"{machine.get('cpu', 'unknown')}"
    return results.commit or "unknown", device
