"""Throughput of beam search by batch size: token-level MoE, task-level MoE, dense models.

All variants translate the same random sentences into the same number of tokens. The report has the
operations and the bytes of weights of each variant beside its speed.
"""

import gc
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

from tqdm import tqdm

from ..measure import alternate, describe
from ..memory_limit import attempt, limited_memory
from .search import DecodingLoad, make_batch, make_search, make_task
from .variants import REFERENCE, DecodingVariant, build_variants
from .work import SearchWork, count_work

Row = Dict[str, Any]


class Sweep(NamedTuple):
    """The variants and sizes to measure."""

    variants: Sequence[str]
    expert_counts: Sequence[int]
    batch_sizes: Sequence[int]
    repeats: int = 3
    memory_gb: Optional[float] = None  # for models and searches; None: the free memory


def bench_decode(sweep: Sweep, load: DecodingLoad) -> Iterator[Dict[str, Any]]:
    """Yield the report of the measurements so far, after each batch size."""
    provenance = describe({**load._asdict(), **sweep._asdict()})
    rows: List[Row] = []
    warm_up(load)
    with limited_memory(load.device, sweep.memory_gb):
        for num_experts in sorted(sweep.expert_counts):
            for new in measure_sizes(sweep, load, num_experts):
                rows += new
                yield {
                    **provenance, "reference": REFERENCE, "rows": rows,
                    "summary": summarise(rows),
                }


def warm_up(load: DecodingLoad) -> None:
    """Translate once with a tiny model, before memory is limited.

    Libraries load parts of themselves at first use, and may crash if that exceeds the limit.
    """
    tiny = load._replace(arch="tiny", model=(), vocab_size=100, length=2, output_length=2)
    task = make_task(tiny.vocab_size)
    for model, own_task in build_variants([REFERENCE, "padded"], 2, tiny, task).values():
        search = make_search(model, own_task, make_batch(own_task, 1, tiny), tiny)
        count_work(search, model, tiny.output_length, load.device)


def measure_sizes(sweep: Sweep, load: DecodingLoad, num_experts: int) -> Iterator[List[Row]]:
    """Yield the rows of each batch size, for one number of experts."""
    task = make_task(load.vocab_size)
    built = attempt(lambda: build_variants(sweep.variants, num_experts, load, task))
    variants: Dict[str, DecodingVariant] = built.value if built.fits else {}
    sizes = sorted(sweep.batch_sizes)
    for size in tqdm(sizes, desc=f"{num_experts} experts", leave=False, disable=None):
        measured = measure_size(variants, size, sweep.repeats, load)
        # a variant whose batch did not fit is not measured with larger ones
        variants = {name: variant for name, variant in variants.items() if name in measured}
        yield add_ratios([
            make_row(name, num_experts, size, sweep, measured.get(name)) for name in sweep.variants
        ])


def make_row(
    name: str, num_experts: int, size: int, sweep: Sweep, measured: Optional[Row]
) -> Row:
    """Return the row of a variant, without measurements if its batch did not fit."""
    several = len(sweep.expert_counts) > 1
    return {
        "variant": name, "label": f"{name}@{num_experts}" if several else name,
        "experts": num_experts, "batch_size": size, "fits": measured is not None,
        **(measured or {}),
    }


def measure_size(
    variants: Dict[str, DecodingVariant], size: int, repeats: int, load: DecodingLoad
) -> Dict[str, Row]:
    """Return the measurements of each variant whose batch fits memory."""
    searches, work = {}, {}
    too_large: Set[str] = set()
    for name, (model, task) in variants.items():
        batch = make_batch(task, size, load)
        search = make_search(model, task, batch, load)
        # the first run is counted and not timed
        count = partial(count_work, search, model, load.output_length, load.device)
        counted = attempt(count)
        if counted.fits:
            work[name] = counted.value
            searches[name] = _run_while_it_fits(search, name, too_large)
    timings = alternate(searches, repeats, load.device, burn_in=0)
    tokens = size * load.output_length
    return {
        name: {
            "seconds": timing.median, "spread": timing.spread,
            "tokens_per_second": tokens / timing.median, **describe_work(work[name], tokens),
        }
        for name, timing in timings.items() if name not in too_large
    }


def describe_work(work: SearchWork, tokens: int) -> Row:
    return {**work._asdict(), "flops_per_token": work.flops / tokens}


def _run_while_it_fits(search: Callable[[], Any], name: str, too_large: Set[str]) -> Any:
    def run() -> None:
        if name not in too_large and not attempt(search).fits:
            too_large.add(name)

    return run


def add_ratios(rows: List[Row]) -> List[Row]:
    """Add to the rows of one batch size the speed relative to REFERENCE."""
    gc.collect()
    reference = next((row for row in rows if row["variant"] == REFERENCE and row["fits"]), None)
    for row in rows:
        if row["fits"] and reference is not None:
            row["speed_of_reference"] = row["tokens_per_second"] / reference["tokens_per_second"]
    return rows


def summarise(rows: Sequence[Row]) -> Dict[str, Any]:
    """Return each variant's best batch size, and ratios at the best and at equal sizes.

    `time_of_fewest_experts` is the time for a token relative to the fewest experts measured, at
    equal batch sizes.
    """
    fitting = [row for row in rows if row["fits"]]
    best: Dict[Any, Row] = {}
    for row in fitting:
        key = row["variant"], row["experts"]
        if key not in best or row["tokens_per_second"] > best[key]["tokens_per_second"]:
            best[key] = row
    fewest = {(row["variant"], row["batch_size"]): row for row in reversed(fitting)}
    summary = {}
    for (variant, experts), row in best.items():
        reference = best.get((REFERENCE, experts))
        own = [r for r in fitting if (r["variant"], r["experts"]) == (variant, experts)]
        summary[row["label"]] = {
            "best_batch_size": row["batch_size"],
            "tokens_per_second": row["tokens_per_second"],
            "speed_of_reference_at_best": reference
            and row["tokens_per_second"] / reference["tokens_per_second"],
            "speed_of_reference": {
                str(r["batch_size"]): r["speed_of_reference"] for r in own
                if "speed_of_reference" in r
            },
            "time_of_fewest_experts": {
                str(r["batch_size"]):
                fewest[variant, r["batch_size"]]["tokens_per_second"] / r["tokens_per_second"]
                for r in own
            },
        }
    return summary
