"""Writing results so that nobody ever finds half of them."""

import fcntl
import glob
import os
import shutil
import signal
import sys
import tempfile
import zlib
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Iterator, List

from .errors import refuse


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """Give a folder to fill, which becomes the new folder out when all went well.

    An out that exists is refused before anything is done, unless it is an empty folder. What
    killed processes have left of the same out is removed.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    target = Path(out).resolve()
    with _folders(target.parent):
        _remove_abandoned(target)
        part = Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{os.getpid()}.", dir=target.parent))
        try:
            with _held(part):
                yield part
                part.chmod(0o755)
                part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; those that were made go again when anything goes wrong."""
    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def missing_folders(folder: Path) -> List[Path]:
    """Return a folder and those above it that are not there, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: List[Path]) -> None:
    """Remove folders, each inside the next, until one is not empty."""
    with suppress(OSError):
        for each in folders:
            each.rmdir()


def remove_unless_translated(output: Path) -> None:
    """Remove what fairseq-generate writes for --results-path where that holds nothing but a log."""
    with suppress(OSError):
        with output.open(encoding="utf-8", errors="replace") as file:
            if any(line.startswith(("H-", "Generate ")) for line in file):
                return
        output.unlink()
        output.parent.rmdir()


def _prefix(target: Path) -> str:
    """Return how the names of this machine's unfinished folders begin; a process id follows."""
    return f".{target.name}.{zlib.crc32(os.uname().nodename.encode()):08x}."


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Hold a lock on a folder, which ends with this process however that ends."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks; nothing is removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the unfinished folders of processes that were killed: models are large.

    A process is gone if no process of this machine has its id, and nobody holds its folder: those
    of another container have ids of their own.
    """
    for part in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        pid = part.name.removeprefix(_prefix(target)).partition(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            with suppress(OSError):
                descriptor = os.open(part, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(part, ignore_errors=True)
                finally:
                    os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no id at all
        return True
    return True


def write_atomically(path: Path, text: str) -> None:
    """Write text as UTF-8 to path, whole or not at all; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_together(files: List[str]) -> Iterator[List[str]]:
    """Give a temporary name beside each of the new files, renamed to them when all went well."""
    with ExitStack() as folders:
        parts = []
        for file in files:
            folder, name = os.path.split(file)
            folders.enter_context(_folders(Path(folder or ".")))
            parts.append(os.path.join(folder, f".{name}.{os.getpid()}.tmp"))
        try:
            yield parts
            for part, file in zip(parts, files, strict=True):
                os.replace(part, file)
        finally:
            for part in parts:
                if os.path.exists(part):
                    os.unlink(part)


def clean_up_when_terminated() -> None:
    """Let a SIGTERM end this process as an exception does, which leaves nothing half-written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
