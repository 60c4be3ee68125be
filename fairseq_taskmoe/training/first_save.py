"""Whether a training run has ever finished saving its shards.

A kill during the first save leaves the shards of some ranks and no older checkpoint. They are
useless, and training can restart from the beginning. But after a finished save, a missing shard
means that a file was lost, and training must not restart silently. An empty file in the folder
distinguishes the two: it exists from the start of training until the first save is finished.
"""

import contextlib
import logging
import os
from typing import Sequence

BROKEN = ".broken"  # suffix of unusable files
MARK = "checkpoint_last.first-save-unfinished"

logger = logging.getLogger(__name__)


def expect_first_save(save_dir: str) -> None:
    """Record that no save has been finished in a folder."""
    if os.path.isdir(save_dir):
        open(os.path.join(save_dir, MARK), "w").close()


def is_first_save_expected(save_dir: str) -> bool:
    """Return whether the record of expect_first_save is still in a folder."""
    return os.path.exists(os.path.join(save_dir, MARK))


def note_finished_save(save_dir: str) -> None:
    """Record that all ranks have saved their shards."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(save_dir, MARK))


def set_aside(paths: Sequence[str], problem: str) -> None:
    """Rename the existing files among paths, shards of an unfinished first save."""
    existing = [path for path in paths if os.path.exists(path)]
    for path in existing:
        os.replace(path, path + BROKEN)
    if existing:
        logger.warning("%s, and no earlier save was finished: training restarts", problem)
