"""Timing variants in one process, interleaved, so that noise affects all variants equally."""

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


class Phased(NamedTuple):
    """A computation in phases that are timed separately."""

    phases: Dict[str, Callable[[], Any]]  # by name, run in this order
    release: Callable[[], None] = lambda: None  # frees its memory; not timed


def alternate(
    variants: Dict[str, Callable[[], Any]], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Timing]:
    """Run all variants in turn, burn_in + repeats times, and return the timings of the repeats."""
    phased = {name: Phased({"all": run}) for name, run in variants.items()}
    timings = alternate_phases(phased, repeats, device, burn_in)
    return {name: phases["all"] for name, phases in timings.items()}


def alternate_phases(
    variants: Dict[str, Phased], repeats: int, device: str, burn_in: int = 2
) -> Dict[str, Dict[str, Timing]]:
    """Do as alternate does, with a timing for each phase."""
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


def total_timing(timings: Iterable[Timing]) -> Timing:
    """Return the timing of all phases of a computation together."""
    return Timing([sum(repeat) for repeat in zip(*(each.seconds for each in timings), strict=True)])


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
