"""The one way in which this project turns a user's mistake away."""

import sys
from typing import NoReturn


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
    """Print message as one line to stderr and raise Refusal."""
    print(f"taskmoe: error: {message}", file=sys.stderr, flush=True)
    raise Refusal(message)
