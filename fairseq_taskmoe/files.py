"""Writing files and folders atomically."""

import fcntl
import os
import shutil
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Iterator, List

from .errors import refuse


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to out if there was no exception.

    An existing out is refused at the start, unless it is an empty folder, and so is one that
    another process is making. The files of a killed process are removed.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    target = Path(out).resolve()
    part = target.with_name(f".{target.name}.part")
    with _folders(target.parent), _locked(part):
        try:
            yield part
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder, or empty it; refuses one that another process is filling.

    The lock ends with this process in any case.
    """
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse(f"{folder}: another process is writing to it")
        except OSError:
            pass  # some file systems have no locks
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; on an exception, remove those that were created."""
    created = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_empty(created)
        raise


def missing_folders(folder: Path) -> List[Path]:
    """Return those of a folder and its parents that do not exist, innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: List[Path]) -> None:
    """Remove nested folders, innermost first, until one is not empty."""
    with suppress(OSError):
        for each in folders:
            each.rmdir()


def remove_unless_translated(output: Path) -> None:
    """Remove fairseq-generate's output of --results-path if it has no translations, only a log."""
    with suppress(OSError):
        with output.open(encoding="utf-8", errors="replace") as file:
            if any(line.startswith(("H-", "Generate ")) for line in file):
                return
        output.unlink()
        output.parent.rmdir()


def write_atomically(path: Path, text: str) -> None:
    """Write text as UTF-8 to path atomically; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_together(files: List[str]) -> Iterator[List[str]]:
    """Yield temporary files in the folders of new files, renamed to them without an exception."""
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
    """Make SIGTERM end this process with an exception, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
