"""Finding out that a computation does not fit memory, without being killed for it."""

import gc
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import torch

KEPT_FREE = 2**29  # bytes, for other processes and for what is not this process's own memory
# torch's own allocator, and the C++ library's, which torch passes on by its name alone
ON_CPU = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc")


class Attempt(NamedTuple):
    """What a computation returned, or that it did not fit."""

    fits: bool
    value: Any = None


def attempt(compute: Callable[[], Any], cuda: Any = torch.cuda) -> Attempt:
    """Run compute; any error but a lack of memory is raised."""
    try:
        return Attempt(True, compute())
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
    # here the error is gone, and with it the frames that held on to what was allocated
    gc.collect()
    if cuda.is_initialized():
        cuda.empty_cache()
    return Attempt(False)


def is_lack_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory, of the host or of a GPU, was used up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ON_CPU)


@contextmanager
def limited_memory(
    device: str, gigabytes: Optional[float], shared_by: int = 1, cuda: Any = torch.cuda
) -> Iterator[None]:
    """Let this process allocate so many more GB, or by default its share of what is free.

    On CPU by a limit to its address space: without one, Linux promises memory that it does not
    have, and kills the process that uses it. GB are 10^9 bytes.
    """
    room = None if gigabytes is None else int(gigabytes * 1e9)
    if device == "cuda":
        with _limited_gpu(room, cuda):
            yield
        return
    if room is None:
        room = _free_bytes(shared_by)
    if room is None or not sys.platform.startswith("linux"):
        yield  # nobody can tell how much there is
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + room
    for other in before:
        limit = limit if other == resource.RLIM_INFINITY else min(limit, other)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _limited_gpu(room: Optional[int], cuda: Any) -> Iterator[None]:
    """Limit torch's allocator, where a number of bytes is given: a GPU refuses what it has not."""
    if room is None:
        yield
        return
    total = cuda.get_device_properties(cuda.current_device()).total_memory
    share = (cuda.memory_reserved() + room) / total
    cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        yield
    finally:
        cuda.set_per_process_memory_fraction(1.0)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _free_bytes(shared_by: int) -> Optional[int]:
    """Return what is free for each of some processes, of the machine and of its container."""
    free = [value for value in (_free_on_machine(), _free_in_container()) if value is not None]
    return max(0, min(free) - KEPT_FREE) // shared_by if free else None


def _free_on_machine() -> Optional[int]:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    return int(lines["MemAvailable"].split()[0]) * 1024


def _free_in_container() -> Optional[int]:
    """Return what cgroup v2 leaves, None without a limit; cached files give way."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else int(most) - used + int(stat.get("file", 0))
