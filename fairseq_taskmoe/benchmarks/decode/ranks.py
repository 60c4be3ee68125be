"""Several devices: independent sub-networks, compared with experts distributed over the devices.

Each process uses one core of a CPU, or one GPU. This module starts the processes, which run
rank.py, and collects their measurements.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any, Dict, Generator, Iterator, List, Sequence

from ...errors import refuse
from ..measure import describe
from .bench import Row, Sweep, add_ratios, make_row, summarise
from .search import DecodingLoad
from .variants import REFERENCE

# fairseq logs while it is imported, unless logging is configured before
RANK = f"""
import logging
logging.basicConfig(level=logging.WARNING)
from {__package__}.rank import main
main()
"""
VARIANTS = ("extracted", REFERENCE)


def bench_processes(sweep: Sweep, load: DecodingLoad, processes: int) -> Iterator[Dict[str, Any]]:
    """Yield the report of the measurements so far, after each batch size."""
    provenance = describe(
        {**load._asdict(), **sweep._asdict(), "processes": processes, "pinned": can_pin(processes)}
    )
    provenance["hardware"]["threads"] = 1  # of each process
    rows: List[Row] = []
    for num_experts in sorted(sweep.expert_counts):
        for new in measure_sizes(sweep, load, num_experts, processes):
            rows += new
            yield {
                **provenance, "reference": REFERENCE, "rows": rows, "summary": summarise(rows)
            }


def measure_sizes(
    sweep: Sweep, load: DecodingLoad, num_experts: int, processes: int
) -> Iterator[List[Row]]:
    """Yield the rows of each batch size (per process), for one number of experts.

    A process that runs out of memory during a collective call cannot continue with the others: all
    processes are started again for the remaining variants.
    """
    variants, sizes = list(sweep.variants), sorted(sweep.batch_sizes)
    while sizes:
        job = {
            "variants": variants, "num_experts": num_experts, "batch_sizes": sizes,
            "repeats": sweep.repeats, "memory_gb": sweep.memory_gb, "load": load._asdict(),
        }
        no_variants = (line for line in ["{}"] * len(sizes))
        with closing(start_ranks(processes, job) if variants else no_variants) as lines:
            for message in map(json.loads, lines):
                if "out_of_memory" in message:
                    variants.remove(message["out_of_memory"])
                    break
                measured = {
                    name: {**row, **per_token(row, processes * sizes[0] * load.output_length)}
                    for name, row in message.items() if row is not None
                }
                yield add_ratios([
                    make_row(name, num_experts, sizes[0], sweep, measured.get(name))
                    for name in sweep.variants
                ])
                sizes.pop(0)


def per_token(row: Row, tokens: int) -> Row:
    """Return the measurements of all processes for each output token."""
    return {
        "tokens_per_second": tokens / row["seconds"],
        "flops_per_token": row["flops"] / tokens,
        "bytes_sent_per_token": sum(row["bytes_sent"].values()) / tokens,
    }


def start_ranks(processes: int, job: Dict[str, Any]) -> Generator[str, None, None]:
    """Run rank.py in the processes of one group, and yield the lines that they print.

    When one process fails, the others are terminated. When the generator is closed, all are.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
        # otherwise each communication thread takes 64 MB of the limited address space
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, "-c", RANK, json.dumps(job)]
    reading, writing = os.pipe()
    children = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=writing)
        for rank in range(processes)
    ]
    os.close(writing)
    watch = threading.Thread(target=_terminate_together, args=(children,), daemon=True)
    watch.start()
    try:
        with os.fdopen(reading) as lines:
            yield from (line for line in lines if line.startswith("{"))
    finally:
        for child in children:
            child.terminate()  # nothing happens to one that has ended
        watch.join()
    statuses = [child.wait() for child in children]
    failed = [status for status in statuses if status not in (0, -signal.SIGTERM)] or [
        status for status in statuses if status
    ]
    if failed:
        how = f"signal {-failed[0]}" if failed[0] < 0 else f"status {failed[0]}"
        refuse(
            f"process {statuses.index(failed[0])} of {processes} ended early with {how}; see its "
            "output above"
        )


def _terminate_together(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Wait for all processes; when one fails, terminate the others, which would wait forever."""
    while any(child.poll() is None for child in children):
        if any(child.poll() for child in children):
            for child in children:
                child.terminate()
        time.sleep(0.05)


def can_pin(processes: int) -> bool:
    """Tell whether there is a core for each process."""
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) >= processes
