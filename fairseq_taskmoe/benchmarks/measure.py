"""Measuring: variants take turns in one process, so that a noisy machine is noisy to all."""

import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import torch
from tqdm import tqdm

from ..evaluation.results import commit, hardware
from ..files import write_atomically


class Timing(NamedTuple):
    """Seconds that one variant took, a number for each repeat."""

    seconds: List[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Return half the distance of the quartiles, as a share of the median."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4)
        return (upper - lower) / 2 / self.median


def alternate(
    variants: Dict[str, Callable[[], Any]], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Timing]:
    """Run all variants by turns, burn_in + repeats times, and return the timings of the latter."""
    seconds: Dict[str, List[float]] = {name: [] for name in variants}
    for i in tqdm(range(burn_in + repeats), desc="measure", leave=False, disable=None):
        for name, run in variants.items():
            gc.collect()
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if i >= burn_in:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    """Wait for what was started on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the circumstances of a measurement."""
    return {
        "settings": settings,
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "commit": commit(),
    }


def save(path: str, report: Dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_atomically(Path(path), json.dumps(report, indent=2) + "\n")
