"""The one way in which this project turns a user's mistake away."""

import os
import sys
import time
from typing import NoReturn

# Time for rank 0 to say what all ranks found; a launcher may end all as soon as one has ended
RANK_0_FIRST_SECONDS = 3.0


class Refusal(SystemExit):
    """A user's mistake: one line was printed for it, and the process ends with status 2.

    A SystemExit, because fairseq's commands know no other way to end without a traceback, and
    because fairseq swallows an ordinary exception that is raised while it loads a checkpoint.
    """

    def __init__(self, message: str):
        super().__init__(2)
        self.message = message

    def __str__(self) -> str:
        return self.message


def refuse(message: str) -> NoReturn:
    """Print message as one line to stderr and raise Refusal.

    Among several ranks, rank 0 speaks first: what all of them found is then said once.
    """
    if _rank() > 0:
        time.sleep(RANK_0_FIRST_SECONDS)
    print(f"taskmoe: error: {message}", file=sys.stderr, flush=True)
    raise Refusal(message)


def _rank() -> int:
    """Return this process's rank; torch is not imported for that where nobody else did."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        return distributed.get_rank()
    started_as = os.environ.get("RANK", "")  # by torchrun
    return int(started_as) if started_as.isdigit() else 0
