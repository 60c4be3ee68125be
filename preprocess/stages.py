"""Skip the stages of a recipe that are done, and run anew those whose inputs changed.

A stage leaves a stamp: a line with the fingerprint of its settings and inputs, a line of JSON with
what its action returned, and the hash of that.
"""

import fcntl
import hashlib
import json
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_taskmoe.errors import refuse
from preprocess.text_files import refusing_write_errors, write_lines

SHA256 = re.compile("[0-9a-f]{64}")
HashCache = Dict[str, List[Any]]  # by path: size, time of change in ns, hash


def fingerprint(
    settings: Dict[str, Any], inputs: Iterable[Path], cache: Optional[HashCache] = None
) -> str:
    """Hash the settings and the content of the inputs.

    Content, not time stamps: a fresh checkout has new times on old files. A cache spares reading
    the files whose size and time are those that it remembers.
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
    """The files of modules: a stage whose code has changed runs again."""
    return [Path(str(module.__file__)) for module in modules]


def run_stage(
    stamp: Path,
    action: Callable[[], Any],
    settings: Dict[str, Any],
    inputs: Sequence[Path],
    outputs: Sequence[Path],
) -> bool:
    """Run action unless stamp says that it ran with these settings and inputs; tell whether it ran.

    The stamp is written last, so a stage that was interrupted runs again. What action returns,
    None or of JSON's types, can be asked for with stage_result.
    """
    memory = stamp.with_suffix(".hashes")
    cache = read_cache(memory)
    wanted = fingerprint(settings, inputs, cache)
    if all(path.exists() for path in outputs) and stamp.exists():
        if is_stamped(stamp, wanted):
            print(f"{stamp.stem}: done already", file=sys.stderr)
            return False
    with refusing_write_errors(stamp):
        stamp.unlink(missing_ok=True)
    print(f"{stamp.stem} ...", file=sys.stderr)
    result = action()
    write_lines(memory, [json.dumps({str(path): cache[str(path)] for path in inputs})])
    line = json.dumps(result)
    write_lines(stamp, [wanted, line, _checksum(line)])
    return True


def read_cache(path: Path) -> HashCache:
    """Read what is remembered of files; a memory that is damaged is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: [int(size), int(time), str(digest)]
            for name, (size, time, digest) in content.items()
            if SHA256.fullmatch(digest)
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def is_stamped(stamp: Path, wanted: str) -> bool:
    """Say whether a stamp is whole and of the fingerprint that is wanted."""
    try:
        found, result, *checksums = stamp.read_bytes().decode().split("\n")[:-1]
        json.loads(result)
    except (OSError, ValueError, RecursionError):
        return False
    # a stamp of an older version has none
    return found == wanted and checksums in ([], [_checksum(result)])


def _checksum(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


@contextmanager
def only_run(lock: Path) -> Iterator[None]:
    """Refuse to work in a folder, marked by a file lock, where another process is at work.

    Folders that it made are removed again if nothing was put into them.
    """
    made = [each for each in (lock.parent, *lock.parent.parents) if not each.exists()]
    with refusing_write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    with file:
        try:
            # not flock, which a killed process's workers would hold on to until they end
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            refuse(f"{lock.parent}: another process is at work here")
        try:
            yield
        finally:
            if made and list(lock.parent.iterdir()) == [lock]:
                lock.unlink()
                with suppress(OSError):  # something else was put there
                    for folder in made:
                        folder.rmdir()


def stage_result(stamp: Path) -> Any:
    """Return what the action of a finished stage returned."""
    return json.loads(stamp.read_text(encoding="utf-8").split("\n")[1])
