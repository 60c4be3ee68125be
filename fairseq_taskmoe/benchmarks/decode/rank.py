"""One of several processes that translate at the same time; ranks.py starts them.

Rank 0 prints a line of JSON for each batch size: the measurements of all processes together for
each variant, null if it did not fit.
"""

import json
import os
import sys
import warnings
from functools import partial
from typing import Any, Dict, List

import torch
import torch.distributed as dist

from ...distributed.expert_groups import ExpertGroups
from ...distributed.layout import ExpertLayout, expert_layout
from ...host import keep_freed_memory
from ..memory_limit import attempt, limited_memory
from .bench import warm_up
from .gates import even_out
from .rank_search import RankSearch, report_out_of_memory
from .ranks import can_pin
from .search import DecodingLoad, make_batch, make_task, random_targets
from .variants import REFERENCE, SAMPLE, DecodingVariant, build_own, make_config


def build(name: str, num_experts: int, load: DecodingLoad, layout: ExpertLayout) -> DecodingVariant:
    """Return a variant with random weights; a collective call for distributed experts."""
    task = make_task(load.vocab_size)
    if name != REFERENCE:
        return DecodingVariant(build_own(make_config(load, num_experts, "dense"), task, load), task)
    task.expert_groups = ExpertGroups(layout)
    model = build_own(make_config(load, num_experts, "token"), task, load)
    even_out(model, make_batch(task, SAMPLE, load), random_targets(SAMPLE, load))
    return DecodingVariant(model, task)


def measure(job: Dict[str, Any]) -> None:
    """Measure a job in the process group."""
    load = DecodingLoad(*job["load"].values())
    num_experts, repeats = job["num_experts"], job["repeats"]
    layout = expert_layout(num_experts, dist.get_world_size())
    top_k = make_config(load, num_experts, "token").moe_top_k
    variants: Dict[str, DecodingVariant] = {}
    for name in job["variants"]:
        built = attempt(partial(build, name, num_experts, load, layout))
        if not built.fits:
            report_out_of_memory(name)
        variants[name] = built.value
    on_gpu = load.device == "cuda"
    for size in job["batch_sizes"]:
        searches = [RankSearch(name, variants[name], size, load, layout) for name in variants]
        for search in searches:
            search.count(top_k)
        for _ in range(repeats):
            for search in searches:
                search.time(with_communication=not on_gpu)
        if on_gpu:  # timing communication synchronizes the device, and so has its own repeat
            for search in searches:
                search.time(with_communication=True)
        gathered: List[Any] = [{search.name: search.gather(repeats) for search in searches}]
        if dist.get_rank() == 0:
            print(json.dumps(gathered[0]), flush=True)
        dist.broadcast_object_list(gathered)
        variants = {name: variants[name] for name, row in gathered[0].items() if row is not None}


def main() -> None:
    warnings.simplefilter("ignore")  # of fairseq and other libraries
    job = json.loads(sys.argv[1])
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = job["load"]["device"]
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
        if can_pin(processes):  # before the group is formed, so that its threads are pinned too
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
        keep_freed_memory()
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    warm_up(DecodingLoad(*job["load"].values()))
    with limited_memory(device, job["memory_gb"], shared_by=processes):
        measure(job)
    dist.destroy_process_group()
    # at an ordinary exit, a library's thread that still runs would call std::terminate
    os._exit(0)
