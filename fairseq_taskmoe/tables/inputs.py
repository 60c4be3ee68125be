"""Reading the files of an experiment that are not scores: sizes, speeds, significance.

Each reader refuses a file of another form, and names it.
"""

import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from ..errors import refuse
from ..read_files import read_json
from .sweep import device, stacks


class ExpertsUsed(NamedTuple):
    """The experts that any direction is routed to, in the MoE layers of an encoder or decoder."""

    used: float  # mean over layers
    experts: int  # in a layer; the maximum where layers differ

    def __str__(self) -> str:
        return f"{self.used:.1f}".removesuffix(".0") + f" of {self.experts}"


def read_experts_used(path: Path) -> Dict[str, ExpertsUsed]:
    """Read the experts used, by stack, from a file of `taskmoe routing`.

    The file has all MoE layers of a model, with all of their experts.
    """
    from ..routing.shares import load_shares  # needs numpy

    by_stack: Dict[str, List[Any]] = {}
    for (stack, _), shares in load_shares(path).layers.items():
        by_stack.setdefault(stack, []).append(shares)
    return {
        stack: ExpertsUsed(
            sum(int((shares > 0).any(axis=0).sum()) for shares in layers) / len(layers),
            max(shares.shape[1] for shares in layers),
        )
        for stack, layers in by_stack.items()
    }


def read_parameters(path: Path) -> Dict[str, int]:
    """Read the output of `taskmoe params --format json`."""
    content = read_json(path)
    names = ("total", "effective", "total_shared", "effective_shared")
    if not isinstance(content, dict) or any(type(content.get(name)) is not int for name in names):
        refuse(f"{path}: not written by taskmoe params --format json")
    return content


def read_throughput(path: Path, communication: bool = False) -> Optional[Dict[str, Any]]:
    """Read the report of `taskmoe bench decode --out`; None if the file does not exist.

    With communication, the report must be one of several processes.
    """
    if not path.exists():
        return None
    report = read_json(path)
    numbers: List[float] = []
    command = "taskmoe bench decode --processes N" if communication else "taskmoe bench decode"
    try:
        for row in report["rows"]:
            for name in ("variant", "label", "experts", "batch_size", "fits"):
                row[name]
            if type(row["experts"]) is not int or type(row["batch_size"]) is not int:
                raise TypeError
            if row["fits"]:
                numbers.append(float(row["tokens_per_second"]))
                if communication:
                    row["communication_share"] * 1.0
        for name in ("beam", "dtype", "device"):
            report["settings"][name]
        stacks(report)
        device(report)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        refuse(f"{path}: not written by {command} --out")
    if not all(0 < number < math.inf for number in numbers):
        refuse(f"{path}: its tokens_per_second are not all positive numbers")
    return report


def read_significance(path: Path) -> Optional[Dict[str, Any]]:
    """Read {"baseline": row, "rows": {row: {pair: {"delta_bleu", "p"}}}}; None without a file."""
    if not path.exists():
        return None
    report = read_json(path)
    try:
        str(report["baseline"])
        for pairs in report["rows"].values():
            for test in pairs.values():
                test["delta_bleu"] * 1.0, test["p"] * 1.0
    except (KeyError, TypeError, ValueError, AttributeError):
        refuse(f"{path}: expected a baseline, and rows of delta_bleu and p by direction")
    return report
