"""Recovery before training resumes: the newest complete checkpoint gets the name to resume from.

Checkpoints are written atomically (atomic_writes.py), but disks fill up, files are copied
incompletely, and one shard of a sharded checkpoint may be one save ahead of another.
"""

import glob
import logging
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from fairseq.file_io import PathManager

from ..checkpoint.atomic_writes import PREVIOUS, TEMPORARY, keep_as, stand_in
from ..checkpoint.reading import SHARD, Unreadable, open_checkpoint
from ..errors import refuse
from .first_save import BROKEN, expect_first_save, is_first_save_expected, set_aside

logger = logging.getLogger(__name__)

# fairseq's names of checkpoints to resume from, without suffix and .pt; averages and sub-networks
# in the same folder do not match
SAVED = re.compile(r"checkpoint(_last|_best|\d+|_\d+_\d+|\.best_.+_-?\d+\.\d+)")


class Header(NamedTuple):
    """The save that a file belongs to."""

    num_updates: int
    run: str  # of a shard: a random id of each start of training
    rank: int
    num_shards: Optional[int]  # None for an ordinary file


class Save(NamedTuple):
    """The complete files of one save: one, or one for each rank."""

    num_updates: int
    run: str
    paths: List[str]

    def __str__(self) -> str:
        paths = self.paths if len(self.paths) < 3 else [self.paths[0], "...", self.paths[-1]]
        return f"{' '.join(paths)} of update {self.num_updates}"


class FileNames(NamedTuple):
    """The names of the files of a save: base (a path without .pt), suffix, rank, .pt."""

    suffix: str
    num_shards: Optional[int]

    @property
    def endings(self) -> List[str]:
        if self.num_shards is None:
            return [f"{self.suffix}.pt"]
        return [f"{self.suffix}-rank-{rank}.pt" for rank in range(self.num_shards)]

    def paths(self, base: str) -> List[str]:
        return [base + ending for ending in self.endings]


def recover_latest_checkpoint(cfg: Any, num_shards: Optional[int] = None) -> None:
    """Make sure that the checkpoint to resume from is complete, replacing it if necessary.

    To be called by one process, while no other reads or writes checkpoints.

    cfg is fairseq's configuration of checkpoints (cfg.checkpoint); num_shards is the number of
    ranks with --moe-sharded-checkpoints, or None for ordinary files. If checkpoint_last is
    incomplete, or its shards are not of one save, the newest complete save takes its name, with
    saves of the same run preferred. The replaced file is kept as NAME.broken, and a warning is
    logged. Refuses if there is no complete save, if --restore-file itself is incomplete, and if
    there are shards for another number of ranks.

    If there is no checkpoint, or only shards of an unfinished first save (first_save.py), training
    starts from the beginning.
    """
    names = FileNames(re.sub(r"-rank-\d+$", "", cfg.checkpoint_suffix or ""), num_shards)
    _remove_unfinished(cfg.save_dir)
    last, best = (os.path.join(cfg.save_dir, f"checkpoint_{name}") for name in ("last", "best"))
    if num_shards is not None:
        # otherwise shards of two saves could become shards of three at the next kill
        _put_in_place(names, best, _complete_saves(names, best), _problem(names, best))
    if cfg.restore_file != "checkpoint_last.pt":
        _check_named(names, cfg.restore_file)
        return
    _refuse_other_kind(names, last)
    no_files = not _files(names, last)
    if no_files and (cfg.finetune_from_model or cfg.continue_once or cfg.no_last_checkpoints):
        for path in filter(None, (cfg.finetune_from_model, cfg.continue_once)):
            header = read_header(path)
            if header is not None and header.num_shards is not None:
                refuse(f"{path} is one of {header.num_shards} shards: make one file of them with "
                       "`taskmoe consolidate`")
        _start_from_beginning(cfg, names)
        return
    problem = _problem(names, last)
    if problem is None:
        return
    saves = [save for base in _bases(cfg.save_dir, names) for save in _complete_saves(names, base)]
    first_save = num_shards is not None and is_first_save_expected(cfg.save_dir)
    if not saves and (no_files or first_save):
        set_aside(names.paths(last), problem)
        _start_from_beginning(cfg, names)
        return
    # in a folder that several runs have used, the save with most updates need not be the newest
    runs = {header.run for header in map(read_header, _files(names, last)) if header is not None}
    saves.sort(key=lambda save: (save.run in runs, save.num_updates))
    if not _put_in_place(names, last, saves, problem):
        refuse(f"{problem}, and {cfg.save_dir} has no complete checkpoint to resume from instead; "
               "to train from the beginning give another --save-dir")


def read_header(path: str) -> Optional[Header]:
    """Return the header of a checkpoint, without its tensors; None if missing or incomplete.

    A file that cannot be opened is refused.
    """
    if not os.path.isfile(path):
        return None
    try:
        checkpoint = open_checkpoint(path)
    except Unreadable:
        return None
    except OSError as problem:
        refuse(f"{path}: {problem.strerror}")
    try:
        history = checkpoint["optimizer_history"]
        shard: Dict[str, Any] = (checkpoint.get("task_state") or {}).get(SHARD) or {}
        return Header(
            int(history[-1]["num_updates"]),
            shard.get("run", ""),
            shard.get("rank", 0),
            shard.get("world_size"),
        )
    except (AttributeError, LookupError, TypeError, ValueError):  # not a checkpoint of fairseq
        return None


def _start_from_beginning(cfg: Any, names: FileNames) -> None:
    if names.num_shards is not None and not cfg.no_save:
        expect_first_save(cfg.save_dir)


def _remove_unfinished(save_dir: str) -> None:
    """Remove temporary files of killed processes, which may be as large as a checkpoint."""
    for finished in ("", PREVIOUS, BROKEN):
        pattern = os.path.join(glob.escape(save_dir), f"checkpoint*.pt{finished}{TEMPORARY}")
        for path in glob.glob(pattern):
            os.remove(path)


def _files(names: FileNames, base: str) -> List[str]:
    """Return the existing files with the names of a save, including previous versions."""
    versions = [path + end for path in names.paths(base) for end in ("", PREVIOUS)]
    return [path for path in versions if os.path.exists(path)]


def _bases(save_dir: str, names: FileNames) -> List[str]:
    """Return the bases of all checkpoints in a folder, checkpoint_last at the end."""
    ending = names.endings[0]
    files = os.listdir(save_dir) if os.path.isdir(save_dir) else []
    found = {file.removesuffix(ending) for file in files if file.endswith(ending)}
    others = sorted(base for base in found - {"checkpoint_last"} if SAVED.fullmatch(base))
    return [os.path.join(save_dir, base) for base in [*others, "checkpoint_last"]]


def _refuse_other_kind(names: FileNames, base: str) -> None:
    """Refuse one file if shards are expected, the reverse, and another number of shards."""
    ordinary = f"{base}{names.suffix}.pt"
    shards = glob.glob(f"{glob.escape(base + names.suffix)}-rank-*.pt")
    if names.num_shards is None:
        if shards and not os.path.exists(ordinary):
            refuse(f"{min(shards)} is a shard, and this run has no --moe-sharded-checkpoints: "
                   "`taskmoe consolidate` makes one file of all shards")
    elif not _files(names, base):
        if os.path.exists(ordinary):
            refuse(f"{ordinary} is one file, and this run has --moe-sharded-checkpoints: "
                   "`taskmoe reshard` cuts it into shards")
    else:
        headers = filter(None, map(read_header, names.paths(base)))
        number = next((header.num_shards for header in headers), None)
        if number not in (None, names.num_shards):
            refuse(f"{base}{names.suffix} has {number} shards, this run has "
                   f"{names.num_shards} ranks: `taskmoe reshard`")


def _problem(names: FileNames, base: str) -> Optional[str]:
    """Return why a run cannot resume from the files with these names, or None."""
    paths = names.paths(base)
    headers = [read_header(path) for path in paths]
    first = headers[0]
    for rank, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if header is None or first is None:
            return f"{path} is {'broken' if os.path.exists(path) else 'missing'}"
        if (header.rank, header.num_shards) != (rank, names.num_shards):
            if names.num_shards is None:
                return f"{path} is one of {header.num_shards} shards (`taskmoe consolidate`)"
            return f"{path} is not shard {rank} of {names.num_shards}"
        if header.run != first.run:
            return f"{path} is of another run than {paths[0]}"
        if header.num_updates != first.num_updates:
            return (f"{path} is of update {header.num_updates}, "
                    f"{paths[0]} of update {first.num_updates}")
    return None


def _complete_saves(names: FileNames, base: str) -> List[Save]:
    """Return the saves with all their files, under these names or as previous versions."""
    by_rank: List[Dict[Tuple[int, str], str]] = []
    for rank, path in enumerate(names.paths(base)):
        found = {}
        for version in (path + PREVIOUS, path):  # the latter if both are of the same save
            header = read_header(version)
            if header is not None and header[2:] == (rank, names.num_shards):
                found[header.num_updates, header.run] = version
        by_rank.append(found)
    complete = set.intersection(*map(set, by_rank))
    return [Save(*save, [found[save] for found in by_rank]) for save in sorted(complete)]


def _put_in_place(names: FileNames, base: str, saves: List[Save], problem: Optional[str]) -> bool:
    """Give the last of the saves the names with this base, if there is a problem.

    Returns False if there is no save. A kill in between leaves the same saves to choose from.
    """
    if problem is None:
        return True
    if not saves:
        return False
    for source, path in zip(saves[-1].paths, names.paths(base), strict=True):
        if source != path:
            if os.path.exists(path):
                keep_as(path, path + BROKEN)
            stand_in(source, path)
    logger.warning(f"{problem}: using {saves[-1]} instead")
    return True


def _check_named(names: FileNames, restore_file: str) -> None:
    """Refuse an incomplete --restore-file instead of replacing it: the user has named it."""
    if PathManager.path_requires_pathmanager(restore_file):
        return
    base = restore_file.removesuffix(".pt")
    _refuse_other_kind(names, base)
    problem = _problem(names, base)
    if problem is not None:
        refuse(f"--restore-file: {problem}")
