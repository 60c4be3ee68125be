"""Process parallel text in chunks, so that a killed run continues where it was.

A function turns each chunk into text, which is appended to the output files. A journal beside them
gets a line for every chunk whose output is on disk: the hash of the chunk, the sizes of the output
files, and the counts. A later run truncates the files to the last such line and continues there, so
the result is that of an uninterrupted run.
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
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
)

from tqdm import tqdm

from preprocess.pool import WorkerPool
from preprocess.text_files import Chunk, parallel_chunks, partial_name, refusing_write_errors

Counts = Dict[str, Any]  # numbers, or dictionaries of numbers, by name; JSON's types


class ChunkResult(NamedTuple):
    """What a function returns for a chunk."""

    texts: Tuple[bytes, ...]  # to append to each output file
    counts: Counts


class JournalEntry(NamedTuple):
    """A line of the journal."""

    chunk: str  # hash
    sizes: List[int]  # of the output files, with this chunk
    counts: Counts


def summed(counts: Iterable[Mapping[str, Any]]) -> Counts:
    """Add up dictionaries of numbers, and of such dictionaries, key by key.

    >>> summed([{"lines": 1, "dropped": {"empty": 1}}, {"lines": 2, "dropped": {"copies": 3}}])
    {'lines': 3, 'dropped': {'empty': 1, 'copies': 3}}
    """
    total: Counts = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, Mapping):
                total[key] = summed([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def chunk_hash(chunk: Chunk) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for side in chunk.sides:
        digest.update(b"%d\n" % len(side))
        digest.update(side)
    return digest.hexdigest()


class Journal:
    """Output files under partial names, and the journal that records how much of them is valid."""

    def __init__(self, path: Path, outputs: Sequence[Path], settings: Dict[str, Any]):
        self.path = path
        self.outputs = outputs
        self.header = json.dumps(settings, sort_keys=True)
        self.entries = self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.exists():  # an earlier result, valid up to the first changed line
                os.replace(output, partial_name(output))

    def _read(self) -> List[JournalEntry]:
        """Return the entries that the files confirm, none where the settings have changed."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        if lines[:1] != [self.header.encode()]:
            return []
        entries = list(_valid_entries(lines[1:], len(self.outputs)))
        files = [output if output.exists() else partial_name(output) for output in self.outputs]
        sizes = [file.stat().st_size if file.exists() else 0 for file in files]
        while entries and any(
            expected > size for expected, size in zip(entries[-1].sizes, sizes, strict=True)
        ):
            entries.pop()
        return entries

    def truncate(self, num_chunks: int) -> None:
        """Remove all but the first chunks."""
        del self.entries[num_chunks:]
        sizes = self.entries[-1].sizes if self.entries else [0] * len(self.outputs)
        # the journal first: it must never record more than the files hold
        with refusing_write_errors(self.path):
            partial = partial_name(self.path)
            lines = [self.header, *map(json.dumps, self.entries)]
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            os.replace(partial, self.path)
        for output, size in zip(self.outputs, sizes, strict=True):
            with refusing_write_errors(output), partial_name(output).open("ab") as stream:
                stream.truncate(size)

    def append(self, results: Iterable[Tuple[str, ChunkResult]]) -> None:
        """Append the results of further chunks, each given with its chunk's hash."""
        with ExitStack() as stack:
            # unbuffered: a buffer would be written again at closing, after a full disk was reported
            *streams, log = (
                stack.enter_context(path.open("ab", buffering=0))
                for path in (*map(partial_name, self.outputs), self.path)
            )
            for digest, (texts, counts) in results:
                sizes = [
                    _append(stream, output, text)
                    for stream, output, text in zip(streams, self.outputs, texts, strict=True)
                ]
                entry = JournalEntry(digest, sizes, counts)
                _append(log, self.path, json.dumps(entry).encode() + b"\n")
                self.entries.append(entry)

    def finish(self) -> None:
        for output in self.outputs:
            os.replace(partial_name(output), output)


def _valid_entries(lines: Iterable[bytes], num_files: int) -> Iterator[JournalEntry]:
    """Yield the entries before the first damaged one; a loss of power damages files."""
    for line in lines:
        try:
            digest, sizes, counts = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        sizes_fit = isinstance(sizes, list) and [type(size) for size in sizes] == [int] * num_files
        if not (sizes_fit and isinstance(counts, dict)):
            return
        yield JournalEntry(digest, sizes, counts)


def _append(stream: FileIO, path: Path, text: bytes) -> int:
    """Append to a file and return its size when the text is on disk."""
    left = memoryview(text)
    with refusing_write_errors(path):
        while left:
            left = left[stream.write(left) :]
        os.fsync(stream.fileno())
    return stream.tell()


class ProcessingOptions(NamedTuple):
    """Options that all steps share."""

    pool: WorkerPool
    chunk_lines: int = 50_000  # of either side: some megabytes, a second or two of work

    def without_workers(self) -> "ProcessingOptions":
        """Return the same options without worker processes, for steps that only read and write."""
        return self._replace(pool=WorkerPool(None, 1))


def process_texts(
    texts: Sequence[Sequence[Path]],
    outputs: Sequence[Path],
    function: Callable[[Chunk], ChunkResult],
    journal_path: Path,
    settings: Dict[str, Any],
    options: ProcessingOptions,
) -> List[Counts]:
    """Apply function to the chunks of parallel texts, write outputs, and return the counts.

    settings must hold everything that the outputs depend on, besides the texts.
    """
    journal = Journal(journal_path, outputs, {"chunk_lines": options.chunk_lines, **settings})
    total = sum(sides[0].stat().st_size for sides in texts)
    with tqdm(total=total, desc=journal_path.stem, unit="B", unit_scale=True, disable=None) as bar:
        chunks = _with_progress(parallel_chunks(texts, options.chunk_lines), bar)
        num_done, remaining = _skip_done(chunks, journal.entries)
        journal.truncate(num_done)
        hashes: Deque[str] = deque()

        def hashed(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
            for chunk in chunks:
                hashes.append(chunk_hash(chunk))
                yield chunk

        results = options.pool.ordered_map(function, hashed(remaining))
        journal.append((hashes.popleft(), result) for result in results)
    journal.finish()
    return [entry.counts for entry in journal.entries]


def _with_progress(chunks: Iterable[Chunk], bar: "tqdm[Any]") -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(chunk.bytes_read - bar.n)


def _skip_done(
    chunks: Iterator[Chunk], entries: Sequence[JournalEntry]
) -> Tuple[int, Iterable[Chunk]]:
    """Skip the chunks that the journal has; return their number, and the remaining chunks."""
    num_done = 0
    for chunk in chunks:
        if num_done == len(entries) or chunk_hash(chunk) != entries[num_done].chunk:
            return num_done, chain([chunk], chunks)
        num_done += 1
    return num_done, []
