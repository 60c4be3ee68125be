"""How a user's mistake is reported: by an exception, which a command turns into one line.

A command that ends with a refusal prints `taskmoe: error: MESSAGE` to stderr and has status 2.
A program that uses the package as a library can catch the exception.
"""

import os
import re
import sys
import time
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType, TracebackType
from typing import Iterator, NoReturn, Optional, Tuple, Type

STATUS = 2
# Time for rank 0 to print its message: a launcher may end all ranks as soon as one has ended
RANK_0_FIRST_SECONDS = 3.0


class Refusal(Exception):
    """A user's mistake, in one line that names the flag, file or language.

    reported_by_rank_0 is true where all ranks of a run have found it and rank 0 prints it.
    """

    def __init__(self, message: str, reported_by_rank_0: bool = False):
        super().__init__(message)
        self.message = message
        self.reported_by_rank_0 = reported_by_rank_0


def refuse(message: str) -> NoReturn:
    """Raise Refusal with a message of one line."""
    raise Refusal(message)


@contextmanager
def command() -> Iterator[None]:
    """On a refusal end the process with one line and status 2: for a command's main function."""
    try:
        yield
    except Refusal as refusal:
        end_command(refusal)


def end_command(refusal: Refusal) -> NoReturn:
    """Print a refusal and end the process; among several ranks rank 0 prints first."""
    if not refusal.reported_by_rank_0:
        if _rank() > 0:
            time.sleep(RANK_0_FIRST_SECONDS)
        print(f"taskmoe: error: {refusal.message}", file=sys.stderr, flush=True)
    sys.exit(STATUS)


def end_fairseq_commands() -> None:
    """Let fairseq's own commands end with one line, too, where this package refuses something.

    Called when the plugin is imported. In other programs Python handles an uncaught refusal.
    """
    if any(map(_is_command, walk_stack(None))):
        # or fairseq-hydra-train would print a traceback of its own and end with status 1
        os.environ["HYDRA_FULL_ERROR"] = "1"
    otherwise = sys.excepthook

    def end(
        kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        refusal = find_refusal(error)
        if refusal is not None and any(map(_is_command, walk_tb(trace))):
            # torch.distributed has a hook of its own, which collects what other hooks print and
            # loses it where one of them ends the process
            with redirect_stderr(sys.__stderr__):
                end_command(refusal)
        otherwise(kind, error, trace)

    sys.excepthook = end


def _is_command(place: Tuple[FrameType, int]) -> bool:
    """Return whether a frame is of the function that one of fairseq's commands consists of."""
    code = place[0].f_code
    return code.co_name == "cli_main" and Path(code.co_filename).parent.name == "fairseq_cli"


def find_refusal(error: BaseException) -> Optional[Refusal]:
    """Return the refusal that an uncaught exception stems from, if any.

    fairseq replaces what is raised while it loads a checkpoint by an Exception of its own, and
    torch repeats in text what is raised in another process: a data loader's, or a spawned rank's.
    """
    while type(error) is Exception and error.__context__ is not None:
        error = error.__context__
    if isinstance(error, Refusal) and "\n" not in error.message:
        return error
    if isinstance(error, Refusal) or type(error).__module__.startswith("torch.multiprocessing"):
        lines = re.findall(rf"^{re.escape(__name__)}\.Refusal: (.*)$", str(error), re.MULTILINE)
        return Refusal(lines[-1]) if lines else None
    return None


def _rank() -> int:
    """Return this process's rank; torch is not imported for that alone."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        return distributed.get_rank()
    started_as = os.environ.get("RANK", "")  # by torchrun
    return int(started_as) if started_as.isdigit() else 0
