"""The search of one variant in one of several processes that translate at the same time.

Shapes: P processes.
"""

import json
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple
from unittest.mock import patch

import torch.distributed as dist

from ...distributed.layout import ExpertLayout
from ...models.lockstep_search import LockstepDecoder
from ..measure import Timing, synchronize
from ..memory_limit import Attempt, attempt
from ..wire_counter import counting_collectives
from .search import DecodingLoad, make_batch, make_search
from .variants import REFERENCE, DecodingVariant
from .work import ChosenExperts, count_work

TERMINATION_SECONDS = 60.0  # time for the first process to terminate a process without memory


class RankSearch:
    """Translates this process's batch repeatedly.

    All methods are collective calls: processes with distributed experts decode in lockstep.
    """

    def __init__(
        self, name: str, variant: DecodingVariant, size: int, load: DecodingLoad,
        layout: ExpertLayout,
    ):
        self.name, self.load, self.layout = name, load, layout
        model: Any = variant.model
        self.model, self.lockstep = model, LockstepDecoder(model)
        batch = make_batch(variant.task, size, load, seed=1 + dist.get_rank())
        self.search = make_search(self.lockstep.model, variant.task, batch, load)
        self.fits = True
        self.seconds: List[Tuple[float, Optional[float]]] = []  # total, and in collectives
        self.sent: Dict[str, int] = {}  # bytes in one search
        self.work: Dict[str, Any] = {}

    def count(self, top_k: int) -> None:
        """Translate once, and count the computation and the bytes sent."""
        held = partial(held_experts, layout=self.layout) if self.name == REFERENCE else _own
        with counting_collectives(1 + 2 * top_k) as sent:
            counted = self._attempt(partial(
                count_work, self.translate, self.model, self.load.output_length, self.load.device,
                held,
            ))
        self.sent = dict(sent.num_bytes)
        self.work = counted.value._asdict() if counted.fits else {}

    def time(self, with_communication: bool) -> None:
        """Translate once and take the time; with_communication, also that in collectives."""
        in_collectives = [0.0]
        timer = (
            _timing_collectives(self.load.device, in_collectives) if with_communication
            else nullcontext()
        )
        dist.barrier()
        start = time.perf_counter()
        with timer:
            self._attempt(self.translate)
        synchronize(self.load.device)
        total = time.perf_counter() - start
        self.seconds.append((total, in_collectives[0] if with_communication else None))

    def translate(self) -> None:
        self.search()
        self.lockstep.finish_batch(had_one=True)

    def gather(self, repeats: int) -> Any:
        """Return the measurements of all processes on rank 0, None if one lacked memory."""
        own = {"fits": self.fits, "seconds": self.seconds, "sent": self.sent, "work": self.work}
        ranks: Any = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(own, ranks)
        if ranks is None or not all(rank["fits"] for rank in ranks):
            return None
        return combine(ranks, repeats)

    def _attempt(self, compute: Callable[[], Any]) -> Attempt:
        if not self.fits:
            return Attempt(False)
        result = attempt(compute)
        self.fits = result.fits
        if self.name == REFERENCE and not self.fits:
            report_out_of_memory(self.name)
        return result


def combine(ranks: Sequence[Dict[str, Any]], repeats: int) -> Dict[str, Any]:
    """Return the measurements of P processes together: the slowest determines the time."""
    timing = Timing([max(total for total, _ in repeat) for repeat in zip(
        *(rank["seconds"][:repeats] for rank in ranks), strict=True
    )])
    known = [pair for rank in ranks for pair in rank["seconds"] if pair[1] is not None]
    kinds = sorted({kind for rank in ranks for kind in rank["sent"]})
    work = [rank["work"] for rank in ranks]
    return {
        "seconds": timing.median,
        "spread": timing.spread,
        "communication_share": sum(pair[1] for pair in known) / sum(pair[0] for pair in known),
        "bytes_sent": {kind: sum(rank["sent"].get(kind, 0) for rank in ranks) for kind in kinds},
        "flops": sum(each["flops"] for each in work),
        "peak_bytes": max(each["peak_bytes"] for each in work),
        # mean of a process: of its own experts, those that tokens of any process chose
        "experts_per_step": sum(each["experts_per_step"] for each in work) / len(work),
        "weight_bytes_per_step": sum(each["weight_bytes_per_step"] for each in work) // len(work),
    }


def held_experts(chosen: ChosenExperts, layout: ExpertLayout) -> ChosenExperts:
    """Return which of its own experts this process computes for all ranks: a collective call."""
    own = layout.experts(dist.get_rank())
    gathered: Any = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, chosen)
    group = [gathered[rank] for rank in layout.group(dist.get_rank())]
    return {
        name: [
            set().union(*sets) & set(range(own.start, own.stop))
            for sets in zip(*(member[name] for member in group), strict=True)
        ]
        for name in chosen
    }


def report_out_of_memory(name: str) -> None:
    """Report to the first process that a variant does not fit, which terminates this process."""
    print(json.dumps({"out_of_memory": name}), flush=True)
    time.sleep(TERMINATION_SECONDS)
    raise SystemExit(1)


@contextmanager
def _timing_collectives(device: str, seconds: List[float]) -> Iterator[None]:
    """Add the time in all-to-all and all-reduce to seconds[0]."""

    def timed(collective: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = collective(*args, **kwargs)
            synchronize(device)
            seconds[0] += time.perf_counter() - start
            return result

        return run

    with (
        patch.object(dist, "all_to_all_single", timed(dist.all_to_all_single)),
        patch.object(dist, "all_reduce", timed(dist.all_reduce)),
    ):
        yield


def _own(chosen: ChosenExperts) -> ChosenExperts:
    return chosen
