"""An experiment's folder, read for its tables: scores, speeds, sizes, languages.

    RUNS/ROW/evaluation/results.json               by `taskmoe evaluate`; ROW.seed2: another seed
    RUNS/bilingual/PAIR/evaluation/results.json    a model for each direction
    RUNS/ROW/params.json                           by `taskmoe params CKPT --format json`
    RUNS/ROW/routing/routing.npz                   by `taskmoe routing`
    RUNS/throughput.json                           by `taskmoe bench decode --out`
    RUNS/throughput-web.json                       the same of 128 experts, for figure 4
    RUNS/communication.json                        the same with --processes
    RUNS/significance.json                         paired bootstrap against a baseline
    RUNS/languages.yaml                            de: {train_pairs: 1000, class: high}

Only the first is needed. Models are never loaded, and neither is torch.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..errors import refuse
from ..evaluation.results import Results, load_results
from ..evaluation.significance_inputs import search_settings
from ..metrics.languages_file import Language, read_languages
from ..metrics.scoring import DirectionScore, averages, is_english, split_pair
from ..paths import check_path
from .inputs import (
    ExpertsUsed,
    read_experts_used,
    read_parameters,
    read_significance,
    read_throughput,
)
from .speed import Speeds
from .table import NOT_RUN, Spread, spread

SIDES = {"xx-en": "xx→en", "en-xx": "en→xx"}
SEED = re.compile(r"(.+)\.seed(\d+)")


class System(NamedTuple):
    """A row of the tables: one configuration, trained with one seed or several."""

    name: str
    seeds: list[dict[str, DirectionScore]]  # by seed, then direction
    provenance: list[tuple[str, str]]  # commit and hardware of its results
    searches: list[tuple[list[str], dict[str, Any]]]  # of each results file: directions, settings

    @property
    def directions(self) -> list[str]:
        """Return the directions that all seeds were evaluated in."""
        others = self.seeds[1:]
        return [pair for pair in self.seeds[0] if all(pair in seed for seed in others)]

    def score(self, pair: str, field: str = "bleu") -> Optional[Spread]:
        """Return a direction's score over the seeds that have it."""
        return spread([getattr(seed[pair], field) for seed in self.seeds if pair in seed])

    def means(
        self, resources: Optional[Mapping[str, str]], within: Optional[Collection[str]] = None
    ) -> dict[str, dict[str, Optional[Spread]]]:
        """Return group -> field -> mean over its directions, see scoring.averages.

        Only directions that all seeds have, and that are within.
        """
        chosen = self.directions if within is None else [p for p in self.directions if p in within]
        by_seed = [averages({p: seed[p] for p in chosen}, resources) for seed in self.seeds]
        return {
            group: {name: _over_seeds(name, [means[group][name] for means in by_seed])
                    for name in fields}
            for group, fields in by_seed[0].items()
        }


class Experiment(NamedTuple):
    """What a folder of runs holds."""

    systems: dict[str, System]  # by name, as found
    languages: dict[str, Language]  # most text first; empty: unknown
    parameters: dict[str, dict[str, int]]  # by system, of those that were counted
    experts_used: dict[str, dict[str, ExpertsUsed]]  # by system and stack, where it was measured
    speeds: Speeds
    significance: Optional[dict[str, Any]]

    @property
    def resources(self) -> Optional[dict[str, str]]:
        """Return the class of each language."""
        return {code: lang.resources for code, lang in self.languages.items()} or None

    @property
    def directions(self) -> list[str]:
        """Return all directions that a system should have: of all languages, and of any system."""
        evaluated = {
            pair for system in self.systems.values() for seed in system.seeds for pair in seed
        }
        spoken = {code for pair in evaluated for code in split_pair(pair)}
        english = sorted(filter(is_english, spoken))  # en, or as in en_XX
        planned = [
            pair for code in self.languages for en in english
            for pair in (f"{code}-{en}", f"{en}-{code}")
        ]
        return [*planned, *sorted(evaluated - set(planned))]


def read_experiment(runs: str, languages: Optional[str] = None) -> Experiment:
    """Read a folder of runs, with languages from a file that may lie elsewhere.

    Refuses a folder without results, and every broken file, with its name.
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
            if not SEED.fullmatch(name)  # another seed has as many
        },
        experts_used={
            path.parts[-3]: read_experts_used(path)
            for path in sorted(folder.glob("*/routing/routing.npz"))
            if not SEED.fullmatch(path.parts[-3])  # as with parameters, of the first seed alone
        },
        speeds=Speeds(
            read_throughput(folder / "throughput.json"),
            read_throughput(folder / "throughput-web.json"),
            read_throughput(folder / "communication.json", communication=True),
        ),
        significance=read_significance(folder / "significance.json"),
    )
    for pair in experiment.directions:
        for code in split_pair(pair):
            if known and not is_english(code) and code not in known:
                refuse(f"{listing}: no entry for the language {code} of the direction {pair}")
    return experiment


def scored_metrics(experiment: Experiment) -> dict[str, str]:
    """Return BLEU, and chrF++ where results have it, with their fields in results.json."""
    known = any(
        score.chrfpp is not None for system in experiment.systems.values()
        for seed in system.seeds for score in seed.values()
    )
    return {"BLEU": "bleu", **({"chrF++": "chrfpp"} if known else {})}


def run_status(system: Optional[System], planned: Collection[str]) -> str:
    """Say in how many of the planned directions a system was evaluated, and with how many seeds."""
    done = sum(pair in planned for pair in system.directions) if system else 0
    if not system or not done:
        return NOT_RUN
    total = f"{len(planned)} directions"
    seeds = f", {len(system.seeds)} seeds" if len(system.seeds) > 1 else ""
    return (total if done == len(planned) else f"{done} of {total}") + seeds


def side_of(pair: str) -> Optional[tuple[str, str]]:
    """Return ("xx-en", "de") of "de-en", and None of a direction without English."""
    source, target = split_pair(pair)
    if is_english(source) == is_english(target):
        return None
    return ("en-xx", target) if is_english(source) else ("xx-en", source)


def split_seed(folder: str) -> tuple[str, int]:
    """Return ("token_target", 2) of "token_target.seed2", and 1 where no seed is named."""
    seeded = SEED.fullmatch(folder)
    return (seeded[1], int(seeded[2])) if seeded else (folder, 1)


def _over_seeds(field: str, values: list[Optional[float]]) -> Optional[Spread]:
    """Return a mean over seeds; of a floor, which is the data's, what any of them has."""
    if field.startswith("floor_"):
        return spread([value for value in values if value is not None][:1])
    return spread(values)


def _read_systems(folder: Path) -> dict[str, System]:
    by_name: dict[str, list[tuple[int, list[Results]]]] = {}
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
        name: System(
            name,
            [_merged(f"{folder / name}", results) for _, results in sorted(
                runs, key=lambda run: run[0])],
            list(dict.fromkeys(_circumstances(one) for _, results in runs for one in results)),
            [(list(one.directions), search_settings(one.config))
             for _, results in runs for one in results],
        )
        for name, runs in by_name.items()
    }


def _merged(place: str, results: list[Results]) -> dict[str, DirectionScore]:
    """Return the directions of one row, which bilingual models have in several files."""
    merged: dict[str, DirectionScore] = {}
    for one in results:
        if not one.directions:
            refuse(f"{place}: results of no direction")
        for pair, score in one.directions.items():
            if pair in merged:
                refuse(f"{place}: two of its results are of {pair}")
            if len([code for code in pair.split("-") if code]) != 2:
                refuse(f"{place}: its results have {pair!r}, which is no language pair")
            merged[pair] = score
    return merged


def _circumstances(results: Results) -> tuple[str, str]:
    machine = results.hardware
    gpus = machine.get("gpus") or []
    device = f"{len(gpus)} x {gpus[0]}" if gpus else f"{machine.get('cpu', 'unknown')}"
    return results.commit or "unknown", device
