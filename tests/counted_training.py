"""One rank of trainings whose traffic between ranks is counted.

The trainer, the task and the data are those of any training. Rank 0 prints what was counted as one
line of JSON for each training.
"""

import json
import logging
import sys
import warnings
from typing import Any, Dict, Iterator, List, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from fairseq import options, tasks, utils
from fairseq.data.iterators import GroupedIterator
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from rows_needed import counting_needs

from fairseq_taskmoe import register  # noqa: F401
from fairseq_taskmoe.benchmarks.wire_counter import counting_collectives


class Job(NamedTuple):
    """A training to count."""

    flags: List[str]  # of fairseq-train
    updates: int
    in_turn: bool  # whether batches of one task are dealt in turn, wherever their experts are


def count_training(cfg: Any, job: Job) -> List[Dict[str, Any]]:
    """Train, and return what this rank sent and needed in each update."""
    metrics.reset()
    np.random.seed(cfg.common.seed)
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    layout, rank = task.run.layout, dist.get_rank()
    if job.in_turn:
        num_tasks = len(task.task_table.lang_pairs)
        task.affinity = lambda: torch.full((num_tasks, layout.size), 1 / layout.size)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    updates = updates_of(trainer, cfg, job.updates)
    records = []
    with (
        counting_collectives(1 + 2 * cfg.model.moe_top_k) as sent,
        counting_needs(model, layout, layout.place(rank)) as needed,
    ):
        for samples in updates:
            sent.clear()
            needed.clear()
            with metrics.aggregate() as meters:
                trainer.train_step(samples)
            real = [sample for sample in samples if sample]  # others have a batch left, we do not
            records.append({
                "sent": dict(sent.num_bytes), "calls": dict(sent.calls), "needed": dict(needed),
                "logged": logged_bytes(meters),
                "batches": {
                    "number": len(real),
                    "idle": len(samples) - len(real),
                    "tokens": sum(sample["ntokens"] for sample in real),
                    "positions": sum(sample["target"].numel() for sample in real),
                },
            })
    return records


def updates_of(trainer: Trainer, cfg: Any, num_updates: int) -> Iterator[List[Any]]:
    """Give the micro-batches of each update, over as many epochs as it takes."""
    left, epoch = num_updates, 1
    while left > 0:
        reload = trainer.task.has_sharded_data("train")
        batches = trainer.get_train_iterator(
            epoch, load_dataset=reload or epoch == 1, disable_iterator_cache=reload
        )
        trainer.begin_epoch(epoch)
        updates = GroupedIterator(
            batches.next_epoch_itr(shuffle=True), cfg.optimization.update_freq[0]
        )
        for _, samples in zip(range(left), updates, strict=False):
            yield samples
            left -= 1
        epoch += 1


def logged_bytes(meters: Any) -> int:
    """Return what the criterion logs that all ranks sent, which is nothing where it is 0."""
    return round(meters["moe_wire_mb"].val * 1e6) if "moe_wire_mb" in meters else 0


def add_up(ranks: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Return one update's record of all ranks together."""
    summed: Dict[str, Any] = {"logged": ranks[0]["logged"]}
    for part in ("sent", "calls", "needed", "batches"):
        names = set().union(*(record[part] for record in ranks))
        summed[part] = {name: sum(record[part].get(name, 0) for record in ranks) for name in names}
    return summed


def parse(flags: List[str]) -> Any:
    args = options.parse_args_and_arch(options.get_training_parser(), flags)
    return convert_namespace_to_omegaconf(args)


def run_jobs(first: Any, jobs: List[Job]) -> None:
    """Run the trainings one after the other in the group of ranks that has been formed."""
    logging.disable(logging.INFO)
    for job in jobs:
        records = count_training(parse(job.flags), job)
        ranks: Any = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(records, ranks)
        if ranks is not None:
            together = [add_up(list(update)) for update in zip(*ranks, strict=True)]
            print(json.dumps(together), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # fairseq's, and the libraries'
    logging.disable(logging.INFO)
    jobs = [Job(*job) for job in json.loads(sys.argv[1])]
    first = parse(jobs[0].flags)
    distributed_utils.call_main(first, run_jobs, jobs=jobs)

