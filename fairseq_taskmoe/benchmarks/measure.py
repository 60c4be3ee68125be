"""Measuring: variants take turns in one process, so that a noisy machine is noisy to all."""

import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple

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


class Phased(NamedTuple):
    """A computation in phases whose times are wanted apart."""

    phases: Dict[str, Callable[[], Any]]  # by name, run in this order
    release: Callable[[], None] = lambda: None  # frees what it leaves in memory; not timed


def alternate(
    variants: Dict[str, Callable[[], Any]], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Timing]:
    """Run all variants by turns, burn_in + repeats times, and return the timings of the latter."""
    phased = {name: Phased({"all": run}) for name, run in variants.items()}
    timings = alternate_phases(phased, repeats, device, burn_in)
    return {name: phases["all"] for name, phases in timings.items()}


def alternate_phases(
    variants: Dict[str, Phased], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Dict[str, Timing]]:
    """As alternate, with a timing of each phase."""
    seconds: Dict[str, Dict[str, List[float]]] = {
        name: {phase: [] for phase in variant.phases} for name, variant in variants.items()
    }
    for i in tqdm(range(burn_in + repeats), desc="measure", leave=False, disable=None):
        for name, variant in variants.items():
            gc.collect()
            for phase, run in variant.phases.items():
                synchronize(device)
                start = time.perf_counter()
                run()
                synchronize(device)
                if i >= burn_in:
                    seconds[name][phase].append(time.perf_counter() - start)
            variant.release()
    return {
        name: {phase: Timing(values) for phase, values in phases.items()}
        for name, phases in seconds.items()
    }


def together(timings: Iterable[Timing]) -> Timing:
    """Return the timing of all phases of a computation."""
    return Timing([sum(repeat) for repeat in zip(*(each.seconds for each in timings), strict=True)])


def synchronize(device: str, cuda: Any = torch.cuda) -> None:
    """Wait for what was started on a GPU."""
    if device == "cuda":
        cuda.synchronize()


def describe(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the provenance of a measurement."""
    return {
        "settings": settings,
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "commit": commit(),
    }


def save(path: str, report: Dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_atomically(Path(path), json.dumps(report, indent=2) + "\n")
