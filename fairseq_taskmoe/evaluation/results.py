"""What an evaluation leaves behind: results.json for programs, results.md and a table for people.

Scores mean little without their provenance: configuration, commit, hardware, versions.
"""

import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional, Union

from ..errors import refuse
from ..files import write_atomically
from ..host import available_cores
from ..metrics.scoring import SCORE_FIELDS, Average, DirectionScore, averages
from ..read_files import read_json

PROJECT = Path(__file__).resolve().parents[2]
SCORE_TITLES = ("BLEU", "chrF", "chrF++", "copy chrF", "nearest chrF")  # of SCORE_FIELDS
OPTIONAL_FIELDS = ("chrfpp", "floor_copy_chrf", "floor_nearest_chrf")
SIGNATURES = {"BLEU": "signature", "chrF": "chrf_signature", "chrF++": "chrfpp_signature"}


@dataclass(frozen=True)
class Results:
    """The scores of one model, in the order of results.json."""

    config: Any  # whatever JSON can hold: a name, a path, the flags
    commit: Optional[str]
    hardware: dict[str, Any]
    directions: dict[str, DirectionScore]  # by language pair
    averages: dict[str, Average]  # by group, see scoring.averages
    versions: dict[str, str] = field(default_factory=dict)  # by package

    @classmethod
    def collect(
        cls,
        config: Any,
        directions: Mapping[str, DirectionScore],
        resources: Optional[Mapping[str, str]] = None,
        zero_shot: Optional[Collection[str]] = None,
    ) -> "Results":
        """Add the averages, grouped by resources and zero_shot, and today's provenance."""
        return cls(
            config=config,
            commit=commit(),
            hardware=hardware(),
            directions=dict(directions),
            averages=averages(directions, resources, zero_shot),
            versions={name: version(name) for name in ("sacrebleu", "torch")},
        )

    def to_json(self) -> str:
        """Return the text of results.json."""
        directions = {pair: score._asdict() for pair, score in self.directions.items()}
        # allow_nan: NaN is no JSON, other programs would reject the whole file
        return (
            json.dumps({**vars(self), "directions": directions}, indent=2, allow_nan=False) + "\n"
        )

    def save(self, folder: Union[str, Path]) -> None:
        """Write results.md and results.json into folder, which is made where it is missing.

        Each file is whole or not there; results.json comes last and so marks a finished run.
        Refuses a folder that cannot be written to.
        """
        texts = {"results.md": markdown(self), "results.json": self.to_json()}
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_atomically(Path(folder) / name, text)
        except OSError as error:
            refuse(f"cannot write results to {folder}: {error.strerror or error}")


def load_results(path: Union[str, Path]) -> Results:
    """Read a results.json; refuses, naming file and field, what is not one."""
    content = read_json(path, "results file")
    if problem := _find_problem(content):
        refuse(f"{path} is not a results file: {problem}")
    directions = {  # fields that a later version may add are passed over
        pair: DirectionScore(**{name: score.get(name) for name in DirectionScore._fields})
        for pair, score in content["directions"].items()
    }
    return Results(
        config=content["config"],
        commit=content["commit"],
        hardware=content["hardware"],
        directions=directions,
        averages=content["averages"],
        versions=content.get("versions", {}),
    )


def terminal_table(results: Results) -> str:
    """Return directions, then averages, as aligned plain text without a final newline."""
    directions, means = _rows(results)
    rows = [*directions, *means]
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    lines.insert(len(directions), "")
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Return the text of results.md: two tables, then signatures and provenance."""
    lines = ["# Results", ""]
    for header, *rows in _rows(results):
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines += [*(f"| {' | '.join(row)} |" for row in (header, rule, *rows)), ""]
    lines += [
        "copy chrF: the source itself taken for its translation; nearest chrF: the translation",
        "of the most similar training sentence.",
        "",
    ]
    for title, name in SIGNATURES.items():
        used: dict[str, list[str]] = {}
        for pair, score in results.directions.items():
            used.setdefault(getattr(score, name) or "unknown", []).append(pair)
        lines += [f"- {title} signature: `{key}` ({', '.join(used[key])})" for key in used]
    lines += [
        f"- config: `{_one_line(results.config)}`",
        f"- commit: `{results.commit or 'unknown'}`",
        f"- hardware: {_listing(results.hardware)}",
        f"- versions: {_listing(results.versions)}",
    ]
    return "\n".join(lines) + "\n"


def hardware() -> dict[str, Any]:
    """Describe the machine: cpu, cores that this process may use, memory_gb, gpus, platform."""
    import torch  # not above: whoever only reads results files need not wait for it

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    linux = hasattr(os, "sched_getaffinity")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if linux else None
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gb": memory and round(memory / 2**30, 1),
        "gpus": gpus,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def provenance() -> str:
    """Return in a line what works here: the commit, the hardware, the version of torch."""
    return f"commit {commit() or 'unknown'}; {_listing(hardware())}; torch {version('torch')}"


def commit(folder: Union[str, Path] = PROJECT) -> Optional[str]:
    """Return the git commit that folder is a checkout of, None where it is not one.

    "-dirty" follows where tracked files were changed. A folder inside somebody else's checkout,
    as site-packages in a virtual environment often is, is not one. Never raises.
    """
    # inside a git hook these would point every git command to the hook's repository
    hidden = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["GIT_OPTIONAL_LOCKS"] = "0"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, timeout=30, check=True)
        return os.fsdecode(done.stdout).strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(folder).resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--verify", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, no commit yet
        return None


def _find_problem(content: Any) -> Optional[str]:
    """Say what keeps parsed JSON from being a results file, None where nothing does."""
    if not isinstance(content, dict):
        return "it holds no object"
    for name in ("config", "commit", "hardware", "directions", "averages"):
        if name not in content:
            return f"{name!r} is missing"
    for name in ("hardware", "directions", "averages", "versions"):
        if not isinstance(content.get(name, {}), dict):
            return f"{name!r} is no object"
    gpus = content["hardware"].get("gpus") or []
    if not isinstance(gpus, list):
        return "'hardware' has no list of 'gpus'"
    if not isinstance(content["commit"], str | None):
        return "'commit' is neither text nor null"
    for group, counter in (("directions", "sentences"), ("averages", "directions")):
        for key, score in content[group].items():
            if not isinstance(score, dict) or type(score.get(counter)) is not int:
                return f"{group}: {key!r} has no count {counter!r}"
            if group == "directions" and not isinstance(score.get("signature"), str):
                return f"{group}: {key!r} has no 'signature'"
            for name in SCORE_FIELDS:
                value: Any = score.get(name)
                # an average may be over nothing, a floor unknown
                if value is None and (group == "averages" or name in OPTIONAL_FIELDS):
                    continue
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                # false for NaN; BLEU's 100 is 100.00000000000004
                if not (number and 0 <= value <= 100.001):
                    return f"{group}: {key!r} has no {name!r} between 0 and 100"
            for name in SIGNATURES.values():
                if not isinstance(score.get(name), str | None):
                    return f"{group}: {key!r}: {name!r} is no text"
    return None


def _rows(results: Results) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cells of both tables, header first: directions, averages."""

    def cells(name: str, count: Optional[float], scores: dict[str, Any]) -> list[str]:
        numbers = [scores.get(key) for key in SCORE_FIELDS]
        # one decimal: further ones suggest a precision that BLEU and chrF do not have
        return [name, str(count), *("-" if x is None else f"{x:.1f}" for x in numbers)]

    directions = [cells(k, v.sentences, v._asdict()) for k, v in results.directions.items()]
    means = [cells(k, v["directions"], v) for k, v in results.averages.items()]
    return (
        [["direction", "sentences", *SCORE_TITLES], *directions],
        [["average", "directions", *SCORE_TITLES], *means],
    )


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def _listing(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_one_line(value)}" for name, value in facts.items()) or "unknown"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
