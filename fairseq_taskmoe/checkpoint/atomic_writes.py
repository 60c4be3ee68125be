"""Putting checkpoint files in place so that a kill at any moment leaves a whole one under the name.

A shard (`checkpoint_last-rank-N.pt`) is worth nothing without those of the other ranks, which a
kill may leave one save behind: the shard that a newer one replaces is kept as `NAME.previous`.
"""

import contextlib
import functools
import os
import re
import shutil

from fairseq.file_io import PathManager

TEMPORARY = ".tmp"  # what fairseq's torch_persistent_save calls its own unfinished files
PREVIOUS = ".previous"
# Only names that are used again at every save: of numbered files the one before has its own number
REPLACED_SHARD = re.compile(r"checkpoint_(last|best).*-rank-\d+\.pt")


def put_checkpoints_in_place_atomically() -> None:
    """Let a kill at any moment leave whole checkpoint files, under every name.

    fairseq makes checkpoint_last.pt and checkpoint_best.pt by copying over the old file in place: a
    kill leaves half of one. It renames what it has saved, but before the data is on the disk. What
    iopath stores elsewhere is left to iopath.
    """
    copy = PathManager.copy

    @functools.wraps(copy)
    def copy_atomically(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        elsewhere = map(PathManager.path_requires_pathmanager, (src_path, dst_path))
        if any(elsewhere) or not overwrite:
            return copy(src_path, dst_path, overwrite)
        copy_checkpoint(src_path, dst_path)
        return True

    PathManager.copy = staticmethod(copy_atomically)
    PathManager.rename = staticmethod(replace_checkpoint)  # called for local files alone


def replace_checkpoint(finished: str, path: str) -> None:
    """Rename the file finished to path, keeping the shard that was there as path.previous.

    Its data reaches the disk before its name does, so that a power failure leaves no empty file.
    Raises OSError; the file under path is then the old one.
    """
    _flush(finished)
    if REPLACED_SHARD.fullmatch(os.path.basename(path)) and os.path.isfile(path):
        keep_as(path, path + PREVIOUS)
    os.replace(finished, path)
    with contextlib.suppress(OSError):  # some network file systems cannot do this for a folder
        _flush(os.path.dirname(os.path.abspath(path)))


def copy_checkpoint(source: str, path: str) -> None:
    """Copy source to path, which is the old file until it is all of the new one; raises OSError.

    The data is copied, as fairseq does: two names of one file would both be lost with it.
    """
    replace_checkpoint(_temporary_copy(source, path), path)


def keep_as(path: str, kept: str) -> None:
    """Give the file under path the name kept as well, replacing what had it.

    Where the file system has no hard links, path is without a file afterwards.
    """
    temporary = kept + TEMPORARY
    _remove(temporary)
    try:
        os.link(path, temporary)
    except OSError:
        os.replace(path, kept)
    else:
        os.replace(temporary, kept)
        _remove(temporary)  # os.replace leaves it there if kept was a link to the same file


def stand_in(source: str, path: str) -> None:
    """Replace path by a copy of source; if source is the previous file of that name, by itself."""
    os.replace(source if source == path + PREVIOUS else _temporary_copy(source, path), path)


def _temporary_copy(source: str, path: str) -> str:
    """Copy source to a temporary file next to path; return its name. A failed copy is removed."""
    temporary = path + TEMPORARY
    try:
        shutil.copyfile(source, temporary)
        _flush(temporary)
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.remove(path)


def _flush(path: str) -> None:
    """Wait until a file's data, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
