"""Reporting a user's mistake: an exception, which commands turn into one line.

A command prints `taskmoe: error: MESSAGE` to stderr and ends with status 2. A program that uses the
package as a library can catch the exception.
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
# time for rank 0 to print its message, since a launcher may end all ranks as soon as one ends
RANK_0_FIRST_SECONDS = 3.0


class Refusal(Exception):
    """A user's mistake, in one line that names the flag, file or language.

    reported_by_rank_0: all ranks raise it, and rank 0 prints it.
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
    """End the process on a refusal with one line and status 2; for main functions of commands."""
    try:
        yield
    except Refusal as refusal:
        end_command(refusal)


def end_command(refusal: Refusal) -> NoReturn:
    """Print a refusal and end the process; rank 0 prints before other ranks."""
    if not refusal.reported_by_rank_0:
        if _rank() > 0:
            time.sleep(RANK_0_FIRST_SECONDS)
        print(f"taskmoe: error: {refusal.message}", file=sys.stderr, flush=True)
    sys.exit(STATUS)


def end_fairseq_commands() -> None:
    """Make fairseq's own commands, too, end with one line on a refusal.

    Called when the plugin is imported. Other programs handle an uncaught refusal as usual.
    """
    if any(map(_is_command, walk_stack(None))):
        # otherwise fairseq-hydra-train would print a traceback and end with status 1
        os.environ["HYDRA_FULL_ERROR"] = "1"
    previous_hook = sys.excepthook

    def end(
        kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        refusal = find_refusal(error)
        if refusal is not None and any(map(_is_command, walk_tb(trace))):
            # torch.distributed's hook collects what other hooks print, and loses it if one of them
            # ends the process
            with redirect_stderr(sys.__stderr__):
                end_command(refusal)
        previous_hook(kind, error, trace)

    sys.excepthook = end


def _is_command(frame_and_line: Tuple[FrameType, int]) -> bool:
    """Return whether a frame is of the main function of one of fairseq's commands."""
    code = frame_and_line[0].f_code
    return code.co_name == "cli_main" and Path(code.co_filename).parent.name == "fairseq_cli"


def find_refusal(error: BaseException) -> Optional[Refusal]:
    """Return the refusal that caused an uncaught exception, if any.

    fairseq replaces exceptions while loading a checkpoint by an Exception, and torch includes as
    text what is raised in another process (of a data loader, or a spawned rank).
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
    """Return this process's rank, without importing torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        return distributed.get_rank()
    from_torchrun = os.environ.get("RANK", "")
    return int(from_torchrun) if from_torchrun.isdigit() else 0
