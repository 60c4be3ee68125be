"""From chunks of a parallel text to files that grow by what a function makes of each.

A journal beside the files gets a line for every chunk whose output is on disk: the hash of the
chunk, how long the files are now, and what was counted. After a kill the files are cut back to the
last such line and the work goes on behind it, so the result is that of an uninterrupted run.
"""

import hashlib
import json
import os
from collections import deque
from contextlib import ExitStack
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Tuple,
)

from tqdm import tqdm

from preprocess.counts import Counts
from preprocess.pool import WorkerPool
from preprocess.text_files import Chunk, parallel_chunks, refusing_write_errors


class Made(NamedTuple):
    """What a function makes of a chunk."""

    texts: Tuple[bytes, ...]  # what each output file grows by
    counts: Counts  # of JSON's types


class Entry(NamedTuple):
    """A line of the journal."""

    chunk: str  # hash
    sizes: List[int]  # of the output files, with this chunk
    counts: Counts


def chunk_hash(chunk: Chunk) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for side in chunk.sides:
        digest.update(b"%d\n" % len(side))
        digest.update(side)
    return digest.hexdigest()


def partial_name(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


class Journal:
    """Output files under partial names, and the journal that says how much of them is whole."""

    def __init__(self, path: Path, outputs: Sequence[Path], settings: Dict[str, Any]):
        self.path = path
        self.outputs = outputs
        self.header = json.dumps(settings, sort_keys=True)
        self.entries = self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.exists():  # finished once: it may be right up to a changed line
                os.replace(output, partial_name(output))

    def _read(self) -> List[Entry]:
        """Return the entries that the files bear out, none where the settings have changed."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        if lines[:1] != [self.header.encode()]:
            return []
        entries = list(_whole_entries(lines[1:], len(self.outputs)))
        files = [output if output.exists() else partial_name(output) for output in self.outputs]
        sizes = [file.stat().st_size if file.exists() else 0 for file in files]
        while entries and any(
            wanted > size for wanted, size in zip(entries[-1].sizes, sizes, strict=True)
        ):
            entries.pop()
        return entries

    def cut_back(self, num_chunks: int) -> None:
        """Forget all but the first chunks."""
        del self.entries[num_chunks:]
        sizes = self.entries[-1].sizes if self.entries else [0] * len(self.outputs)
        # first the journal: it must never promise more than the files hold
        with refusing_write_errors(self.path):
            partial = partial_name(self.path)
            lines = [self.header, *map(json.dumps, self.entries)]
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            os.replace(partial, self.path)
        for output, size in zip(self.outputs, sizes, strict=True):
            with refusing_write_errors(output), partial_name(output).open("ab") as stream:
                stream.truncate(size)

    def grow(self, made: Iterable[Tuple[str, Made]]) -> None:
        """Append what was made of further chunks, each given with its chunk's hash."""
        with ExitStack() as stack:
            # without buffers, which would try again at closing what a full disk did not take
            *streams, log = (
                stack.enter_context(path.open("ab", buffering=0))
                for path in (*map(partial_name, self.outputs), self.path)
            )
            for digest, (texts, counts) in made:
                sizes = [
                    _append(stream, output, text)
                    for stream, output, text in zip(streams, self.outputs, texts, strict=True)
                ]
                entry = Entry(digest, sizes, counts)
                _append(log, self.path, json.dumps(entry).encode() + b"\n")
                self.entries.append(entry)

    def finish(self) -> None:
        for output in self.outputs:
            os.replace(partial_name(output), output)


def _whole_entries(lines: Iterable[bytes], num_files: int) -> Iterator[Entry]:
    """Yield the entries up to the first that is damaged, as after a loss of power."""
    for line in lines:
        try:
            digest, sizes, counts = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        of_files = isinstance(sizes, list) and [type(size) for size in sizes] == [int] * num_files
        if not (of_files and isinstance(counts, dict)):
            return
        yield Entry(digest, sizes, counts)


def _append(stream: FileIO, path: Path, text: bytes) -> int:
    """Append to a file and return its size, when the text is on disk."""
    left = memoryview(text)
    with refusing_write_errors(path):
        while left:
            left = left[stream.write(left) :]
        os.fsync(stream.fileno())
    return stream.tell()


class ProcessingOptions(NamedTuple):
    """How texts are processed: the same for all steps."""

    pool: WorkerPool
    chunk_lines: int = 50_000  # of either side: some megabytes, a second or two of work

    def alone(self) -> "ProcessingOptions":
        """Return the same way without worker processes, for what is only reading and writing."""
        return self._replace(pool=WorkerPool(None, 1))


def process_texts(
    texts: Sequence[Sequence[Path]],
    outputs: Sequence[Path],
    function: Callable[[Chunk], Made],
    journal_path: Path,
    settings: Dict[str, Any],
    way: ProcessingOptions,
) -> List[Counts]:
    """Write to outputs what function makes of the chunks of parallel texts; return their counts.

    settings must hold all that the outputs depend on, beside the texts.
    """
    journal = Journal(journal_path, outputs, {"chunk_lines": way.chunk_lines, **settings})
    total = sum(sides[0].stat().st_size for sides in texts)
    with tqdm(total=total, desc=journal_path.stem, unit="B", unit_scale=True, disable=None) as bar:
        chunks = _with_progress(parallel_chunks(texts, way.chunk_lines), bar)
        num_known, later = _skip_known(chunks, journal.entries)
        journal.cut_back(num_known)
        hashes: Deque[str] = deque()

        def remembered(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
            for chunk in chunks:
                hashes.append(chunk_hash(chunk))
                yield chunk

        made = way.pool.ordered_map(function, remembered(later))
        journal.grow((hashes.popleft(), one) for one in made)
    journal.finish()
    return [entry.counts for entry in journal.entries]


def _with_progress(chunks: Iterable[Chunk], bar: "tqdm[Any]") -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(chunk.bytes_read - bar.n)


def _skip_known(chunks: Iterator[Chunk], entries: Sequence[Entry]) -> Tuple[int, Iterable[Chunk]]:
    """Skip the chunks that the journal has; return how many, and the others."""
    known = 0
    for chunk in chunks:
        if known == len(entries) or chunk_hash(chunk) != entries[known].chunk:
            return known, chain([chunk], chunks)
        known += 1
    return known, []
