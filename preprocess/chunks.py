"""Process parallel text in chunks, in worker processes: texts need not fit into memory."""

from contextlib import ExitStack
from pathlib import Path
from typing import (
    Any,
    Callable,
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

from .pool import WorkerPool
from .text_files import Chunk, atomic_output, parallel_chunks, refusing_write_errors

Counts = Dict[str, Any]  # numbers, or dictionaries of numbers, by name; JSON's types


class ChunkResult(NamedTuple):
    """What a function returns for a chunk."""

    texts: Tuple[bytes, ...]  # to append to each output file
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
    options: ProcessingOptions,
) -> List[Counts]:
    """Apply function to the chunks of parallel texts, write outputs, and return the counts.

    The outputs appear under their names when they are complete.
    """
    total = sum(sides[0].stat().st_size for sides in texts)
    name = f"{outputs[0].parent.name}/{outputs[0].name}"
    counts = []
    with ExitStack() as stack:
        streams = [stack.enter_context(atomic_output(output)) for output in outputs]
        bar = stack.enter_context(
            tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)
        )
        chunks = _with_progress(parallel_chunks(texts, options.chunk_lines), bar)
        for result in options.pool.ordered_map(function, chunks):
            for output, stream, text in zip(outputs, streams, result.texts, strict=True):
                with refusing_write_errors(output):
                    stream.write(text)
            counts.append(result.counts)
    return counts


def _with_progress(chunks: Iterable[Chunk], bar: "tqdm[Any]") -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(chunk.bytes_read - bar.n)
