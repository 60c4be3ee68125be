"""Skip the stages of a recipe that are done, and run those again whose inputs changed.

A stage writes a stamp: a line with the fingerprint of its settings and inputs, a line of JSON with
the result of its action, and the hash of that.
"""

import fcntl
import hashlib
import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.files import missing_folders, remove_empty

from .text_files import refusing_write_errors, write_lines

SHA256 = re.compile("[0-9a-f]{64}")
HashCache = Dict[str, List[Any]]  # by path: size, modification time in ns, hash


def fingerprint(
    settings: Dict[str, Any], inputs: Iterable[Path], cache: Optional[HashCache] = None
) -> str:
    """Hash the settings and the content of the inputs.

    Content, not modification times: a fresh checkout changes those. The cache avoids reading files
    whose size and modification time have not changed.
    """
    cache = {} if cache is None else cache
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        try:
            status = path.stat()
            known = cache.get(str(path))
            if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
                known = cache[str(path)] = [status.st_size, status.st_mtime_ns, file_hash(path)]
        except OSError as error:
            refuse(f"{path}: {error.strerror or error}")
        digest.update(bytes.fromhex(known[2]))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_of(*modules: ModuleType) -> List[Path]:
    """Return the files of modules, as inputs of a stage: it runs again when its code changes."""
    return [Path(str(module.__file__)) for module in modules]


def run_stage(
    stamp: Path,
    action: Callable[[], Any],
    settings: Dict[str, Any],
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    announce: bool = True,
) -> bool:
    """Run action unless stamp records a run with these settings and inputs; return whether it ran.

    The stamp is written last, so an interrupted stage runs again. stage_result returns the result
    of the action, which is None or of JSON's types.
    """
    cache_file = stamp.with_suffix(".hashes")
    cache = read_cache(cache_file)
    expected = fingerprint(settings, inputs, cache)
    if all(path.exists() for path in outputs) and is_stamped(stamp, expected):
        if announce:
            print(f"{stamp.stem}: done already", file=sys.stderr)
        return False
    with refusing_write_errors(stamp):
        stamp.unlink(missing_ok=True)
    if announce:
        print(f"{stamp.stem} ...", file=sys.stderr)
    result = action()
    write_lines(cache_file, [json.dumps({str(path): cache[str(path)] for path in inputs})])
    line = json.dumps(result)
    write_lines(stamp, [expected, line, _checksum(line)])
    return True


def read_cache(path: Path) -> HashCache:
    """Read a cache of hashes; a damaged one is empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: [int(size), int(time), str(digest)]
            for name, (size, time, digest) in content.items()
            if SHA256.fullmatch(digest)
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def is_stamped(stamp: Path, expected: str) -> bool:
    """Return whether a stamp exists, is undamaged, and has the expected fingerprint."""
    try:
        found, result, *checksums = stamp.read_bytes().decode().split("\n")[:-1]
        json.loads(result)
    except (OSError, ValueError, RecursionError):
        return False
    # stamps of older versions have no checksum
    return found == expected and checksums in ([], [_checksum(result)])


def _checksum(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


@contextmanager
def only_run(lock: Path) -> Iterator[None]:
    """Hold a lock file; refuses if another process holds it.

    New folders are removed again if they stay empty.
    """
    made = missing_folders(lock.parent)
    with refusing_write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    with file:
        try:
            # not flock, which the workers of a killed process would hold until they end
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            refuse(f"{lock.parent}: another process is at work here")
        try:
            yield
        finally:
            if made and list(lock.parent.iterdir()) == [lock]:
                lock.unlink()
                remove_empty(made)


def stage_result(stamp: Path) -> Any:
    """Return the result of a finished stage."""
    return json.loads(stamp.read_text(encoding="utf-8").split("\n")[1])
