"""Measuring training computations: operations and memory of each, then interleaved timings."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional

from torch.nn import Parameter

from .measure import Phased, Timing, alternate_phases, total_timing
from .memory_limit import attempt, limited_memory
from .resources import flops, measured_weights, peak_bytes

Row = Dict[str, Any]


class Case(NamedTuple):
    """A variant that is ready to run."""

    step: Phased  # the first phase is forward and backward
    parameters: List[Parameter]


class Measurements(NamedTuple):
    """Results by the label of the variant."""

    rows: Dict[str, Row]
    timings: Dict[str, Dict[str, Timing]]  # by phase, of the variants that fitted memory
    skipped: Dict[str, str]  # the reason


def measure_cases(
    makers: Dict[str, Callable[[], Case]], repeats: int, device: str
) -> Measurements:
    """Count and time the cases that makers build, all of them in memory at the same time.

    A case that does not fit memory beside the others has the row {"fits": False}. A case that needs
    a package which is not installed is skipped.
    """
    cases: Dict[str, Case] = {}
    rows: Dict[str, Row] = {}
    skipped: Dict[str, str] = {}
    with limited_memory(device, None):
        for label, make in makers.items():
            try:
                made = attempt(make)
            except ModuleNotFoundError as missing:
                skipped[label] = f"needs the Python package {missing.name}, which is not installed"
                continue
            rows[label] = {"fits": False}
            if made.fits:
                cases[label] = made.value
        for label, case in list(cases.items()):  # with the memory that all cases leave free
            counted = attempt(lambda case=case: count_work(case, device))  # type: ignore[misc]
            if counted.fits:
                rows[label] = {"fits": True, **counted.value}
            else:
                del cases[label]
        timings = alternate_phases(
            {label: case.step for label, case in cases.items()}, repeats, device, burn_in=1
        )
    return Measurements(rows, timings, skipped)


def count_work(case: Case, device: str) -> Row:
    """Run a step for its operations and its memory, which also is a burn-in."""
    forward_backward, *others = case.step.phases.values()
    counted = flops(forward_backward)
    weights = measured_weights(case.parameters)
    extra = peak_bytes(forward_backward, case.parameters, device)
    for run in others:
        run()
    case.step.release()
    return {"flops": counted, **weights._asdict(), "extra_bytes": extra}


def timing_row(
    phases: Dict[str, Timing], reference: Optional[Dict[str, Timing]], num_tokens: int
) -> Row:
    """Return the times of a variant, and its speed relative to a reference that fitted memory."""
    whole = total_timing(phases.values())
    return {
        "seconds": whole.median,
        "spread": whole.spread,
        "tokens_per_second": num_tokens / whole.median,
        "speed_of_reference": reference and total_timing(reference.values()).median / whole.median,
    }
