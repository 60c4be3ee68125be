"""Training steps of whole models on random tokens, measured by turns.

A step is forward, loss and backward; a full step also normalises and clips gradients and updates
the parameters, as fairseq-train does.
"""

import warnings
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch

from ...data.languages import numbered_dictionary
from ...data.task_table import TaskTable
from ..flops import flops
from ..measure import Phased, Timing, alternate_phases, describe, together
from ..memory import measured_weights, peak_bytes
from ..memory_limit import attempt, limited_memory
from .batch import Text, random_batch
from .models import Trained, Variant, build
from .update import build_optimizer, update


class Load(NamedTuple):
    """What is computed in one step."""

    arch: str = "base"
    vocab_size: int = 8000
    text: Text = Text()
    full_step: bool = False
    dtype: str = "float32"


class Case(NamedTuple):
    """A variant that is ready to run."""

    step: Phased
    parameters: List[torch.nn.Parameter]


def bench_train(
    variants: Sequence[Variant], reference: str, load: Load, repeats: int, device: str,
    lang_pairs: Sequence[str],
) -> Dict[str, Any]:
    """Return for each variant what a step takes, or that it does not fit memory beside the others.

    reference is the label of the variant whose speed is 1.
    """
    table = TaskTable.from_pairs(lang_pairs)
    dictionary = numbered_dictionary(load.vocab_size)
    batch = random_batch(load.text, dictionary, len(table.lang_pairs), device)
    precision = torch.get_float32_matmul_precision()
    cases: Dict[str, Case] = {}
    rows: Dict[str, Dict[str, Any]] = {variant.label: {"fits": False} for variant in variants}
    with limited_memory(device, None), warnings.catch_warnings():
        # of what the stock model hands to torch
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        for variant in variants:
            made = attempt(
                partial(make_case, variant, load, dictionary, table, batch, device)
            )
            if made.fits:
                cases[variant.label] = made.value
        for label in list(cases):  # in the memory that all of them leave
            counted = attempt(partial(count_work, cases[label], device))
            if counted.fits:
                rows[label].update(counted.value)
            else:
                del cases[label]
        timings = alternate_phases(
            {label: case.step for label, case in cases.items()}, repeats, device, burn_in=1
        )
    torch.set_float32_matmul_precision(precision)
    for label, phases in timings.items():
        rows[label].update(timed(phases, timings.get(reference), batch["ntokens"]))
    settings = {**load._asdict(), "text": load.text._asdict(), "lang_pairs": list(lang_pairs)}
    return {
        **describe(settings), "reference": reference, "padding": padding(batch, dictionary.pad()),
        "device": device, "variants": rows,
    }


def make_case(
    variant: Variant, load: Load, dictionary: Any, table: TaskTable, batch: Dict[str, Any],
    device: str,
) -> Case:
    """Build a variant's model and optimizer."""
    dtype = getattr(torch, load.dtype)
    trained = build(variant, load.arch, dictionary, table)
    trained.model.to(device, dtype).train()
    parameters = list(trained.model.parameters())
    return Case(training_step(trained, variant, batch, load.full_step, dtype), parameters)


def training_step(
    trained: Trained, variant: Variant, batch: Dict[str, Any], full: bool, dtype: torch.dtype
) -> Phased:
    """Return forward, loss and backward as one phase, and in a full step the update as another."""
    model, criterion = trained
    optimizer = build_optimizer(list(model.parameters()), dtype) if full else None
    if variant.name == "stock":  # it knows of no tasks
        inputs = {name: value for name, value in batch["net_input"].items() if name != "task_ids"}
        batch = {**batch, "net_input": inputs}

    def clear() -> None:
        model.zero_grad(set_to_none=True) if optimizer is None else optimizer.zero_grad()

    def forward_backward() -> None:
        torch.set_float32_matmul_precision(variant.precision)
        clear()
        loss, _, _ = criterion(model, batch)
        loss.backward() if optimizer is None else optimizer.backward(loss)

    phases = {"forward_backward": forward_backward}
    if optimizer is not None:
        phases["update"] = lambda: update(optimizer, batch["ntokens"])
    return Phased(phases, clear)


def count_work(case: Case, device: str) -> Dict[str, Any]:
    """Run a step three times, for what it computes, what it holds in memory, and to burn in."""
    forward_backward = case.step.phases["forward_backward"]
    counted = flops(forward_backward)
    weights = measured_weights(case.parameters)
    extra = peak_bytes(forward_backward, case.parameters, device)
    for run in case.step.phases.values():
        run()
    case.step.release()
    return {"fits": True, "flops": counted, **weights._asdict(), "extra_bytes": extra}


def timed(
    phases: Dict[str, Timing], standard: Optional[Dict[str, Timing]], num_tokens: int
) -> Dict[str, Any]:
    """Return the times of a variant's step as in the report, given those of the reference."""
    whole = together(phases.values())
    row: Dict[str, Any] = {
        "seconds": whole.median,
        "spread": whole.spread,
        "tokens_per_second": num_tokens / whole.median,  # of the target, without padding
        "speed_of_reference":
            standard and together(standard.values()).median / whole.median,
    }
    if len(phases) > 1:
        row["phases"] = {
            name: {
                "seconds": timing.median,
                "speed_of_reference": standard and standard[name].median / timing.median,
            }
            for name, timing in phases.items()
        }
        row["update_share"] = phases["update"].median / whole.median
    return row


def padding(batch: Dict[str, Any], pad: int) -> float:
    """Return the share of positions, of source and target, that are padding."""
    both = (batch["net_input"]["src_tokens"], batch["target"])
    return sum(int(side.eq(pad).sum()) for side in both) / sum(side.numel() for side in both)
