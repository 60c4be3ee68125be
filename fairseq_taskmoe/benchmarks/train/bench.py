"""Training steps of whole models on random tokens, timed interleaved."""

import warnings
from functools import partial
from typing import Any, Dict, NamedTuple, Sequence

import torch

from ...data.languages import numbered_dictionary
from ...data.task_table import TaskTable
from ..cases import Case, measure_cases, timing_row
from ..measure import describe
from .batch import BatchSize, random_batch
from .models import TrainingVariant, build
from .step import training_step


class TrainingLoad(NamedTuple):
    """The computation of one step."""

    arch: str = "base"
    vocab_size: int = 8000
    text: BatchSize = BatchSize()
    full_step: bool = False
    dtype: str = "float32"


def bench_train(
    variants: Sequence[TrainingVariant], reference: str, load: TrainingLoad, repeats: int,
    device: str, lang_pairs: Sequence[str],
) -> Dict[str, Any]:
    """Return the time and memory of each variant's step, or that it does not fit memory.

    reference: the label of the variant whose speed is 1.
    """
    table = TaskTable.from_pairs(lang_pairs)
    dictionary = numbered_dictionary(load.vocab_size)
    batch = random_batch(load.text, dictionary, len(table.lang_pairs), device)
    precision = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        # torch warns about the stock model's masks
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        rows, timings, _ = measure_cases({
            variant.label: partial(make_case, variant, load, dictionary, table, batch, device)
            for variant in variants
        }, repeats, device)
    torch.set_float32_matmul_precision(precision)
    standard = timings.get(reference)
    for label, phases in timings.items():
        row = rows[label]
        row.update(timing_row(phases, standard, batch["ntokens"]))  # targets without padding
        if load.full_step:
            row["phases"] = {
                name: {
                    "seconds": timing.median,
                    "speed_of_reference": standard and standard[name].median / timing.median,
                }
                for name, timing in phases.items()
            }
            row["update_share"] = phases["update"].median / row["seconds"]
    settings = {**load._asdict(), "text": load.text._asdict(), "lang_pairs": list(lang_pairs)}
    return {
        **describe(settings), "reference": reference, "padding": padding(batch, dictionary.pad()),
        "device": device, "variants": rows,
    }


def make_case(
    variant: TrainingVariant, load: TrainingLoad, dictionary: Any, table: TaskTable,
    batch: Dict[str, Any], device: str,
) -> Case:
    """Build a variant's model and optimizer."""
    dtype = getattr(torch, load.dtype)
    trained = build(variant, load.arch, dictionary, table)
    trained.model.to(device, dtype).train()
    parameters = list(trained.model.parameters())
    return Case(training_step(trained, variant, batch, load.full_step, dtype), parameters)


def padding(batch: Dict[str, Any], pad: int) -> float:
    """Return the share of source and target positions that are padding."""
    both = (batch["net_input"]["src_tokens"], batch["target"])
    return sum(int(side.eq(pad).sum()) for side in both) / sum(side.numel() for side in both)
