"""What an experiment's folder holds beside scores: sizes, speeds, significance.

Every reader refuses what is not such a file, and names it.
"""

import json
import math
from pathlib import Path
from typing import Any, Optional

from ..errors import refuse


def read_parameters(path: Path) -> dict[str, int]:
    """Read the counts that `taskmoe params --format json` printed."""
    content = _read_json(path)
    names = ("total", "effective", "total_shared", "effective_shared")
    if not isinstance(content, dict) or any(type(content.get(name)) is not int for name in names):
        refuse(f"{path}: not written by taskmoe params --format json")
    return content


def read_throughput(path: Path) -> Optional[dict[str, Any]]:
    """Read the report of `taskmoe bench decode --out`; None where there is none."""
    if not path.exists():
        return None
    report = _read_json(path)
    speeds: list[float] = []
    try:
        for row in report["rows"]:
            for name in ("variant", "label", "experts", "batch_size", "fits"):
                row[name]
            if row["fits"]:
                speeds.append(float(row["tokens_per_second"]))
        for name in ("arch", "beam", "dtype", "device"):
            report["settings"][name]
        device_name(report)
    except (KeyError, TypeError, ValueError, IndexError):
        refuse(f"{path}: not written by taskmoe bench decode --out")
    if not all(0 < speed < math.inf for speed in speeds):
        refuse(f"{path}: its tokens_per_second are not all positive numbers")
    return report


def device_name(report: dict[str, Any]) -> str:
    """Return what a report of speeds was measured on."""
    machine = report["hardware"]
    return str(machine["gpus"][0] if report["settings"]["device"] == "cuda" else machine["cpu"])


def read_significance(path: Path) -> Optional[dict[str, Any]]:
    """Read {"baseline": row, "rows": {row: {pair: {"delta_bleu", "p"}}}}; None without a file."""
    if not path.exists():
        return None
    report = _read_json(path)
    try:
        str(report["baseline"])
        for pairs in report["rows"].values():
            for test in pairs.values():
                float(test["delta_bleu"]), float(test["p"])
    except (KeyError, TypeError, ValueError, AttributeError):
        refuse(f"{path}: expected a baseline, and rows of delta_bleu and p by direction")
    return report


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse(f"cannot read {path}: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        refuse(f"{path}: not JSON: {error}")
