"""One variant in one of several processes that translate at the same time.

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
from .search import Load, make_batch, make_search
from .variants import REFERENCE, Variant
from .work import Chosen, count_work

ENDED_WITHIN = 60.0  # seconds, in which the first process ends one that cannot go on


class Turns:
    """Translates a batch of this process's own, again and again.

    Every call is one of all processes: those with spread experts go step by step together.
    """

    def __init__(self, name: str, variant: Variant, size: int, load: Load, layout: ExpertLayout):
        self.name, self.load, self.layout = name, load, layout
        model: Any = variant.model
        self.model, self.together = model, LockstepDecoder(model)
        batch = make_batch(variant.task, size, load, seed=1 + dist.get_rank())
        self.search = make_search(self.together.model, variant.task, batch, load)
        self.fits = True
        self.turns: List[Tuple[float, Optional[float]]] = []  # seconds, those in collectives
        self.sent: Dict[str, int] = {}  # bytes, in one search
        self.work: Dict[str, Any] = {}

    def count(self, top_k: int) -> None:
        """Translate once, to count what is computed and sent."""
        held = partial(held_experts, layout=self.layout) if self.name == REFERENCE else _own
        with counting_collectives(1 + 2 * top_k) as sent:
            counted = self._attempt(partial(
                count_work, self.translate, self.model, self.load.output_length, self.load.device,
                held,
            ))
        self.sent = dict(sent.num_bytes)
        self.work = counted.value._asdict() if counted.fits else {}

    def time(self, watched: bool) -> None:
        """Translate once; watched, the time in collectives is taken as well."""
        waited = [0.0]
        watch = _watching(self.load.device, waited) if watched else nullcontext()
        dist.barrier()
        start = time.perf_counter()
        with watch:
            self._attempt(self.translate)
        synchronize(self.load.device)
        self.turns.append((time.perf_counter() - start, waited[0] if watched else None))

    def translate(self) -> None:
        self.search()
        self.together.finish_batch(had_one=True)

    def gather(self, repeats: int) -> Any:
        """Return on rank 0 what all processes measured together, None if it did not fit one."""
        own = {"fits": self.fits, "turns": self.turns, "sent": self.sent, "work": self.work}
        ranks: Any = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(own, ranks)
        if ranks is None or not all(rank["fits"] for rank in ranks):
            return None
        return combine(ranks, repeats)

    def _attempt(self, compute: Callable[[], Any]) -> Attempt:
        if not self.fits:
            return Attempt(False)
        tried = attempt(compute)
        self.fits = tried.fits
        if self.name == REFERENCE and not self.fits:
            report_out_of_memory(self.name)
        return tried


def combine(ranks: Sequence[Dict[str, Any]], repeats: int) -> Dict[str, Any]:
    """Return the figures of P processes together: a turn takes as long as the slowest."""
    timing = Timing([max(seconds for seconds, _ in turn) for turn in zip(
        *(rank["turns"][:repeats] for rank in ranks), strict=True
    )])
    watched = [turn for rank in ranks for turn in rank["turns"] if turn[1] is not None]
    kinds = sorted({kind for rank in ranks for kind in rank["sent"]})
    work = [rank["work"] for rank in ranks]
    return {
        "seconds": timing.median,
        "spread": timing.spread,
        "communication_share": sum(turn[1] for turn in watched) / sum(turn[0] for turn in watched),
        "bytes_sent": {kind: sum(rank["sent"].get(kind, 0) for rank in ranks) for kind in kinds},
        "flops": sum(each["flops"] for each in work),
        "peak_bytes": max(each["peak_bytes"] for each in work),
        # of one process: its own experts, chosen by anybody's tokens
        "experts_per_step": sum(each["experts_per_step"] for each in work) / len(work),
        "weight_bytes_per_step": sum(each["weight_bytes_per_step"] for each in work) // len(work),
    }


def held_experts(chosen: Chosen, layout: ExpertLayout) -> Chosen:
    """Return which of its experts this process computes, of what all chose: a collective call."""
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
    """Tell the first process that a variant does not fit here, and wait to be ended by it."""
    print(json.dumps({"lost": name}), flush=True)
    time.sleep(ENDED_WITHIN)
    raise SystemExit(1)


@contextmanager
def _watching(device: str, waited: List[float]) -> Iterator[None]:
    """Add to waited the seconds in what experts exchange and what keeps searches in step."""

    def watched(collective: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = collective(*args, **kwargs)
            synchronize(device)
            waited[0] += time.perf_counter() - start
            return result

        return run

    with (
        patch.object(dist, "all_to_all_single", watched(dist.all_to_all_single)),
        patch.object(dist, "all_reduce", watched(dist.all_reduce)),
    ):
        yield


def _own(chosen: Chosen) -> Chosen:
    return chosen
