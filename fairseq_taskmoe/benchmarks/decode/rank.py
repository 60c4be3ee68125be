"""One of several processes that translate at the same time; decode_ranks.py starts them.

Rank 0 prints a line of JSON for each batch size: what all processes measured together of each
variant, null where it did not fit.
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
from .ranks import can_pin
from .search import Load, make_batch, make_task, random_targets
from .turns import Turns, report_out_of_memory
from .variants import REFERENCE, SAMPLE, Variant, build_own, make_config


def build(name: str, num_experts: int, load: Load, layout: ExpertLayout) -> Variant:
    """Return a variant of random weights: a collective call for that with spread experts."""
    task = make_task(load.vocab_size)
    if name != REFERENCE:
        return Variant(build_own(make_config(load, num_experts, "dense"), task, load), task)
    task.expert_groups = ExpertGroups(layout)
    model = build_own(make_config(load, num_experts, "token"), task, load)
    even_out(model, make_batch(task, SAMPLE, load), random_targets(SAMPLE, load))
    return Variant(model, task)


def measure(job: Dict[str, Any]) -> None:
    """Run a job in the group of processes that has been formed."""
    load, num_experts, repeats = Load(*job["load"].values()), job["num_experts"], job["repeats"]
    layout = expert_layout(num_experts, dist.get_world_size())
    top_k = make_config(load, num_experts, "token").moe_top_k
    variants: Dict[str, Variant] = {}
    for name in job["variants"]:
        built = attempt(partial(build, name, num_experts, load, layout))
        if not built.fits:
            report_out_of_memory(name)
        variants[name] = built.value
    on_gpu = load.device == "cuda"
    for size in job["batch_sizes"]:
        runs = [Turns(name, variants[name], size, load, layout) for name in variants]
        for run in runs:
            run.count(top_k)
        for _ in range(repeats):
            for run in runs:
                run.time(watched=not on_gpu)
        if on_gpu:  # where the watch has to wait for the device, and so has turns of its own
            for run in runs:
                run.time(watched=True)
        gathered: List[Any] = [{run.name: run.gather(repeats) for run in runs}]
        if dist.get_rank() == 0:
            print(json.dumps(gathered[0]), flush=True)
        dist.broadcast_object_list(gathered)
        variants = {name: variants[name] for name, row in gathered[0].items() if row is not None}


def main() -> None:
    warnings.simplefilter("ignore")  # fairseq's, and the libraries'
    job = json.loads(sys.argv[1])
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = job["load"]["device"]
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
        if can_pin(processes):  # before the group is formed, whose threads are pinned then as well
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
        keep_freed_memory()
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    warm_up(Load(*job["load"].values()))
    with limited_memory(device, job["memory_gb"], shared_by=processes):
        measure(job)
    dist.destroy_process_group()
    # all has been said: a thread of some library that is still about at an ordinary end would end
    # the process by std::terminate, as if it had failed
    os._exit(0)
