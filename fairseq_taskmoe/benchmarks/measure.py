"""Timing variants in one process, interleaved, so that noise affects all variants equally."""

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
    """The seconds of each repeat of one variant."""

    seconds: List[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Return half the interquartile range, as a fraction of the median."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4)
        return (upper - lower) / 2 / self.median


def alternate(
    variants: Dict[str, Callable[[], Any]], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Timing]:
    """Run all variants in turn, burn_in + repeats times, and return the timings of the repeats."""
    seconds: Dict[str, List[float]] = {name: [] for name in variants}
    for _ in tqdm(range(burn_in + repeats), desc="measure", leave=False, disable=None):
        for name, run in variants.items():
            gc.collect()
            seconds[name].append(timed(run, device))
    return {name: Timing(values[burn_in:]) for name, values in seconds.items()}


def timed(run: Callable[[], Any], device: str) -> float:
    """Return the seconds that run takes."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str, cuda: Any = torch.cuda) -> None:
    """Wait until the GPU has finished."""
    if device == "cuda":
        cuda.synchronize()


def describe(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings and the provenance of a measurement."""
    return {
        "settings": settings,
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "commit": commit(),
    }


def save(path: str, report: Dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_atomically(Path(path), json.dumps(report, indent=2) + "\n")
