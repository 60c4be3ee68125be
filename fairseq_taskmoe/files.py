"""Writing files and folders atomically."""

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
    """Yield a temporary folder, which is renamed to out if there was no exception.

    An existing out is refused at the start, unless it is an empty folder. Temporary folders of
    killed processes for the same out are removed.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    target = Path(out).resolve()
    with _folders(target.parent):
        _remove_abandoned(target)
        part = Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{os.getpid()}.", dir=target.parent))
        try:
            with _locked(part):
                yield part
                part.chmod(0o755)
                part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


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


def _prefix(target: Path) -> str:
    """Return the prefix of the names of this machine's temporary folders; a process id follows."""
    return f".{target.name}.{zlib.crc32(os.uname().nodename.encode()):08x}."


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Lock a folder; the lock ends with this process in any case."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary folders of killed processes.

    A process has ended if its id does not exist on this machine and its folder is not locked:
    processes in another container have other ids.
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
    except (OSError, OverflowError):  # of another user, or not an id
        return True
    return True


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
