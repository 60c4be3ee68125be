"""Processes that save checkpoints as fairseq does, and are killed while they do it."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from forked_processes import start_function

import fairseq_taskmoe  # noqa: F401  (importing it repairs the way in which files are put in place)


def state(
    num_updates: int, run: str = "", rank: int = 0, world_size: int = 0, size: int = 10
) -> Any:
    """Return a checkpoint whose weights say which update they are of; world_size 0: no shard."""
    shard = {"rank": rank, "world_size": world_size, "size": world_size, "run": run}
    return {
        "model": {"weight": torch.full((size,), float(num_updates))},
        "optimizer_history": [{"num_updates": num_updates}],
        "task_state": {"expert_shard": shard} if world_size else {},
    }


def ending(rank: int = 0, world_size: int = 0) -> str:
    return f"-rank-{rank}.pt" if world_size else ".pt"


def save(folder: Path, num_updates: int, run: str = "", rank: int = 0, world_size: int = 0,
         size: int = 10, numbered: bool = True) -> None:
    """Save through what fairseq's trainer calls, in its order: numbered, best, last, clean up."""
    end = ending(rank, world_size)
    names = [f"checkpoint_best{end}", f"checkpoint_last{end}"]
    if numbered:
        names.insert(0, f"checkpoint_1_{num_updates}{end}")
    first, *others = [str(folder / name) for name in names]
    checkpoint = state(num_updates, run, rank, world_size, size)
    checkpoint_utils.torch_persistent_save(checkpoint, first)
    for other in others:
        assert PathManager.copy(first, other, overwrite=True)
    pattern = r"checkpoint_\d+_(\d+)" + end.replace(".", r"\.")
    for old in checkpoint_utils.checkpoint_paths(str(folder), pattern)[2:]:
        os.remove(old)


def save_for_ever(folder: Path, size: int) -> None:
    for num_updates in range(10, 100000, 10):
        save(folder, num_updates, size=size)


def updates_of(path: Path) -> Optional[int]:
    """Read all of a file, and return its number of updates; None if there is none."""
    if not path.exists():
        return None
    checkpoint = torch.load(path, weights_only=True)
    (history,) = checkpoint["optimizer_history"]
    assert checkpoint["model"]["weight"].eq(history["num_updates"]).all()
    return history["num_updates"]


FILE_OPERATIONS = ("open", "os.rename", "os.link", "os.remove", "shutil.copyfile")


def _die_at(operation: int, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    seen = 0

    def count(event: str, _: Any) -> None:
        nonlocal seen
        if event in FILE_OPERATIONS:
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    function(*args, **kwargs)


def killed_at(operation: int, function: Callable[..., None], *args: Any, **kwargs: Any) -> bool:
    """Run function in a process that dies at its n-th file operation (from 1); False if none."""
    status = start_function(_die_at, operation, function, *args, **kwargs).wait(60)
    assert status in (0, -signal.SIGKILL)
    return status != 0
