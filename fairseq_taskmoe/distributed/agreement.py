"""Decisions and refusals that all ranks make together."""

from typing import Any, Callable, List, Optional

import torch.distributed as dist

from ..errors import Refusal, refuse


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Call work on rank 0 and return its result on all ranks: a collective call.

    A refusal on rank 0 is raised on all ranks and reported once.
    """
    if num_ranks() == 1:
        return work()
    answer: List[Any] = [None, None]  # result, message of a refusal
    if rank() == 0:
        try:
            answer = [work(), None]
        except Refusal as refusal:
            dist.broadcast_object_list([None, refusal.message], 0)
            raise
    dist.broadcast_object_list(answer, 0)
    if answer[1] is not None:
        raise Refusal(answer[1], reported_by_rank_0=True)
    return answer[0]


def refuse_together(problem: Optional[str]) -> None:
    """Refuse on all ranks if there is a problem on any: a collective call.

    Rank 0 reports the problem of the first rank that has one.
    """
    if num_ranks() == 1:
        if problem is not None:
            refuse(problem)
        return
    problems: List[Any] = [None] * num_ranks()
    dist.all_gather_object(problems, problem)
    found = [each for each in problems if each is not None]
    if found and rank() == 0:
        refuse(found[0])
    if found:
        raise Refusal(found[0], reported_by_rank_0=True)
