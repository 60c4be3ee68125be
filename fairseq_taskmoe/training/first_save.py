"""Whether the ranks of a training have ever saved all their shards.

A kill in the first save of all leaves the shards of some ranks, and nothing older to fall back to.
Such shards are worth nothing, and training can start anew. But where a save has once been finished,
a missing shard was lost, and must never be taken for a reason to start anew. An empty file tells
the two apart: it is in the folder from the start of training until the first save is finished.
"""

import contextlib
import logging
import os
from typing import Sequence

BROKEN = ".broken"  # the end of the name of a file that cannot be used
MARK = "checkpoint_last.first-save-unfinished"

logger = logging.getLogger(__name__)


def expect_first_save(save_dir: str) -> None:
    """Note that no save has been finished in a folder."""
    if os.path.isdir(save_dir):
        open(os.path.join(save_dir, MARK), "w").close()


def is_first_save_expected(save_dir: str) -> bool:
    """Say whether no save has been finished in a folder; where nothing is noted, it may have."""
    return os.path.exists(os.path.join(save_dir, MARK))


def note_finished_save(save_dir: str) -> None:
    """Note that all ranks have saved their shards: from now on each of them has to be there."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(save_dir, MARK))


def set_aside(paths: Sequence[str], problem: str) -> None:
    """Rename shards of a first save that was not finished; there may be none."""
    there = [path for path in paths if os.path.exists(path)]
    for path in there:
        os.replace(path, path + BROKEN)
    if there:
        logger.warning("%s, and no save was finished before: training starts anew", problem)
