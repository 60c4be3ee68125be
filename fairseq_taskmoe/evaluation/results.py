"""The results of an evaluation: results.json for programs, results.md and a table for people.

Scores are stored with their provenance: configuration, commit, hardware and versions.
"""

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple, Union

from ..errors import refuse
from ..files import write_atomically
from ..host import available_cores
from ..metrics.registry import METRICS
from ..metrics.scoring import Average, DirectionScore, averages, score_fields, score_titles
from ..read_files import read_json
from ..text_tables import aligned, markdown_table

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Results:
    """The scores of one model, in the order of results.json."""

    config: Any  # anything that JSON can hold: a name, a path, the flags
    commit: Optional[str]
    hardware: Dict[str, Any]
    directions: Dict[str, DirectionScore]  # by language pair
    averages: Dict[str, Average]  # by group, see scoring.averages
    versions: Dict[str, str] = field(default_factory=dict)  # by package

    @classmethod
    def collect(
        cls,
        config: Any,
        directions: Mapping[str, DirectionScore],
        resources: Optional[Mapping[str, str]] = None,
        zero_shot: Optional[Collection[str]] = None,
    ) -> "Results":
        """Add the averages, grouped by resources and zero_shot, and the present provenance."""
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
        # NaN is not JSON: other programs would reject the whole file
        return json.dumps(vars(self), indent=2, allow_nan=False) + "\n"

    def save(self, folder: Union[str, Path]) -> None:
        """Write results.md and results.json into folder, which is created where it is missing.

        Each file is written whole or not at all. results.json is written last and so marks a
        finished run. Refuses a folder that cannot be written to.
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
    directions = {  # fields that a later version may add are ignored
        pair: {name: score.get(name) for name in score_fields()}
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
    lines = aligned([*directions, *means])
    lines.insert(len(directions), "")
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Return the text of results.md: two tables, then signatures and provenance."""
    lines = ["# Results", ""]
    for header, *rows in _rows(results):
        numeric = [column > 0 for column in range(len(header))]
        lines += [*markdown_table(header, rows, numeric), ""]
    lines += [
        "copy chrF: the source is scored as if it were the translation; nearest chrF: the",
        "translation of the most similar training sentence is.",
        "",
    ]
    for metric in METRICS.values():
        used: Dict[str, List[str]] = {}
        for pair, score in results.directions.items():
            used.setdefault(score[metric.signature] or "unknown", []).append(pair)
        lines += [f"- {metric.title} signature: `{key}` ({', '.join(used[key])})" for key in used]
    lines += [
        f"- config: `{_one_line(results.config)}`",
        f"- commit: `{results.commit or 'unknown'}`",
        f"- hardware: {_listing(results.hardware)}",
        f"- versions: {_listing(results.versions)}",
    ]
    return "\n".join(lines) + "\n"


def hardware() -> Dict[str, Any]:
    """Describe the machine: cpu, cores that this process may use, memory_gb, gpus, platform."""
    import torch  # here, since it takes seconds to load and reading results files needs none of it

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
    """Return in one line the commit, the hardware and the version of torch."""
    return f"commit {commit() or 'unknown'}; {_listing(hardware())}; torch {version('torch')}"


def commit(folder: Union[str, Path] = PROJECT) -> Optional[str]:
    """Return the git commit of a checkout, None where folder is not the root of one.

    "-dirty" follows where tracked files were changed. A folder inside another project's checkout,
    as site-packages in a virtual environment often is, has no commit of its own. Never raises.
    """
    # in a git hook these variables would make every git command use the hook's repository
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
    """Return why parsed JSON is not a results file, None if it is one."""
    if not isinstance(content, dict):
        return "it is not a JSON object"
    for name in ("config", "commit", "hardware", "directions", "averages"):
        if name not in content:
            return f"{name!r} is missing"
    for name in ("hardware", "directions", "averages", "versions"):
        if not isinstance(content.get(name, {}), dict):
            return f"{name!r} is not an object"
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
            for name in score_titles():
                value: Any = score.get(name)
                required = group == "directions" and name in METRICS and METRICS[name].required
                if value is None and not required:
                    continue
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                # false for NaN; BLEU's 100 is 100.00000000000004
                if not (number and 0 <= value <= 100.001):
                    return f"{group}: {key!r} has no {name!r} between 0 and 100"
            for metric in METRICS.values():
                if not isinstance(score.get(metric.signature), str | None):
                    return f"{group}: {key!r}: {metric.signature!r} is not text"
    return None


def _rows(results: Results) -> Tuple[List[List[str]], List[List[str]]]:
    """Return the cells of both tables, header first: directions, averages."""

    def table(name: str, count: str, groups: Mapping[str, Mapping[str, Any]]) -> List[List[str]]:
        # one decimal: further ones suggest a precision that BLEU and chrF do not have
        return [[name, count, *score_titles().values()]] + [
            [key, str(scores[count]), *(
                "-" if (value := scores.get(field)) is None else f"{value:.1f}"
                for field in score_titles()
            )]
            for key, scores in groups.items()
        ]

    return (
        table("direction", "sentences", results.directions),
        table("average", "directions", results.averages),
    )


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def _listing(facts: Dict[str, Any]) -> str:
    return ", ".join(f"{name} {_one_line(value)}" for name, value in facts.items()) or "unknown"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
