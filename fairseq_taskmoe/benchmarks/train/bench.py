"""Training steps of whole models on random tokens, timed interleaved.

Every step has a batch of its own, since new shapes cost time: a library may compile a kernel for
each. The first steps, in which memory grows and most kernels are compiled, are reported apart.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from tqdm import tqdm

from ...data.languages import numbered_dictionary
from ..measure import Timing, describe
from .batch import padding, random_batches
from .models import TrainingVariant
from .process import TrainingLoad, VariantProcess

Row = Dict[str, Any]


class Steps(NamedTuple):
    """The number of training steps."""

    warm_up: int = 20
    measured: int = 40


def bench_train(
    variants: Sequence[TrainingVariant], reference: str, load: TrainingLoad, steps: Steps,
    device: str, lang_pairs: Sequence[str],
) -> Dict[str, Any]:
    """Return the time and memory of each variant's step, or that it does not fit memory.

    reference: the label of the variant whose speed is 1.
    """
    number = sum(steps)
    processes = {
        variant.label: VariantProcess(variant, load, lang_pairs, number, device)
        for variant in variants
    }
    phases: Dict[str, List[Dict[str, float]]] = {
        label: [] for label, process in processes.items() if process.work is not None
    }
    for batch in tqdm(range(number), desc="measure", leave=False, disable=None):
        for label in list(phases):
            seconds = processes[label].step(batch)
            if seconds is None:
                del phases[label]
            else:
                phases[label].append(seconds)
    dictionary = numbered_dictionary(load.vocab_size)
    batches = random_batches(number, load.text, dictionary, len(lang_pairs))
    tokens = [batch["ntokens"] for batch in batches]  # targets without padding
    rows = {
        label: {"fits": True, **(process.work or {}), "process_bytes": process.finish()}
        if label in phases else {"fits": False}
        for label, process in processes.items()
    }
    for label, measured in phases.items():
        rows[label].update(make_row(measured, phases.get(reference), tokens, steps))
    settings = {**load._asdict(), "text": load.text._asdict(), "lang_pairs": list(lang_pairs)}
    return {
        **describe({**settings, **steps._asdict()}), "reference": reference, "device": device,
        "padding": padding(batches, dictionary.pad()), "variants": rows,
    }


def make_row(
    phases: List[Dict[str, float]], reference: Optional[List[Dict[str, float]]],
    tokens: Sequence[int], steps: Steps,
) -> Row:
    """Return the times of a variant, and its speed relative to a reference that fitted memory."""

    def seconds(of: List[Dict[str, float]], *names: str) -> List[float]:
        return [sum(step[name] for name in names or step) for step in of[steps.warm_up:]]

    whole, spans = seconds(phases), tokens[steps.warm_up:]
    warm_up = sum(sum(step.values()) for step in phases[: steps.warm_up])
    per_token = Timing([time / span for time, span in zip(whole, spans, strict=True)])
    row: Row = {
        "seconds": sum(whole) / len(whole), "spread": per_token.spread,
        "tokens_per_second": sum(spans) / sum(whole),
        "warm_up_tokens_per_second": warm_up and sum(tokens[: steps.warm_up]) / warm_up,
        "speed_of_reference": reference and sum(seconds(reference)) / sum(whole),
    }
    if len(phases[0]) > 1:
        row["phases"] = {
            name: {
                "seconds": sum(own := seconds(phases, name)) / len(whole),
                "speed_of_reference": reference and sum(seconds(reference, name)) / sum(own),
            }
            for name in phases[0]
        }
        row["update_share"] = row["phases"]["update"]["seconds"] / row["seconds"]
    return row
