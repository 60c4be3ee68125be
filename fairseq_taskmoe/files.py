"""Writing results so that nobody ever finds half of them."""

import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

from .errors import refuse


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """Give a folder to fill, which becomes the new folder out when all went well.

    An out that exists is refused before anything is done, unless it is an empty folder.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    target = Path(out).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


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
    parts = []
    for file in files:
        folder, name = os.path.split(file)
        os.makedirs(folder or ".", exist_ok=True)
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
