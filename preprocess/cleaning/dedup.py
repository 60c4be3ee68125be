"""Drop duplicates among training pairs, and pairs with a sentence of a validation or test set.

Pairs are compared by 64-bit keys of both sides (sentence_keys.py). All data sets of a language pair
are read twice: first for the keys, then to write the pairs that are kept. Of equal pairs the first
is kept.
"""

from functools import partial
from itertools import compress
from pathlib import Path
from typing import Dict, Iterable, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from fairseq_taskmoe.errors import refuse

from ..chunks import ChunkResult, Counts, ProcessingOptions, process_texts, summed
from ..corpus import Dataset, Sides
from ..stages import code_of, fingerprint
from ..text_files import Chunk, atomic_output, decoded_lines
from . import sentence_keys
from .sentence_keys import (
    Keys,
    first_occurrences,
    folded,
    keys_of_pairs,
    keys_of_sentences,
)

Labels = NDArray[np.uint8]  # (N,): one of the following for each of N pairs
KEPT, HELD_OUT, DUPLICATE = range(3)


def code_hash() -> str:
    """Hash the code that decides which sentences are equal."""
    return fingerprint({}, [Path(__file__), *code_of(sentence_keys)])


def write_held_out_keys(texts: Iterable[Tuple[str, Path]], path: Path) -> int:
    """Write the sorted keys of all sentences of texts, each given with its language."""
    keys = [
        keys_of_sentences(language, map(folded, decoded_lines(file)))
        for language, file in texts
    ]
    # the key of an empty line does no harm: clean training text has no empty lines
    unique = np.unique(np.concatenate(keys)) if keys else np.zeros(0, dtype="<u8")
    with atomic_output(path) as stream:
        np.save(stream, unique)
    return len(unique)


def load_keys(path: Path) -> Keys:
    """Read the file of write_held_out_keys."""
    try:
        keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        refuse(f"{path}: damaged ({' '.join(str(error).split())}); remove it")
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype != np.dtype("<u8"):
        refuse(f"{path}: damaged, it holds no keys of sentences; remove it")
    return keys


def key_chunk(languages: Tuple[str, str], held_out_keys: Path, chunk: Chunk) -> ChunkResult:
    """Return the keys of a chunk's pairs, and a byte for each pair: 1 if it is held out."""
    sides = [[folded(line) for line in side] for side in chunk.decoded()]
    keys = load_keys(held_out_keys)
    held_out = np.zeros(len(sides[0]), dtype=bool)
    for language, side in zip(languages, sides, strict=True):
        held_out |= _is_in(keys_of_sentences(language, side), keys)
    texts = (keys_of_pairs(*sides).tobytes(), held_out.astype(np.uint8).tobytes())
    return ChunkResult(texts, {"lines": len(held_out), "bytes": sum(map(len, chunk.sides))})


def _is_in(keys: Keys, sorted_keys: Keys) -> NDArray[np.bool_]:
    """Return for each key whether it is among sorted_keys."""
    if len(sorted_keys) == 0:
        return np.zeros(len(keys), dtype=bool)
    places = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    return sorted_keys[places] == keys


def dedup_pair(
    datasets: Sequence[Dataset],
    outputs: Sides,
    languages: Tuple[str, str],
    held_out_keys: Path,
    work: Path,
    options: ProcessingOptions,
) -> Dict[str, Counts]:
    """Write the pairs of all data sets that are kept, and return the counts by data set.

    Writes to work a file of the keys, uint64 (N,), and one of the held-out pairs, uint8 (N,).
    """
    texts = [dataset.sides for dataset in datasets]
    key_files = (work / "keys", work / "held_out")
    process_texts(texts, key_files, partial(key_chunk, languages, held_out_keys), options)
    labels = label_pairs(*key_files)
    keep = partial(filter_chunk, [dataset.name for dataset in datasets], labels)
    counts = process_texts(texts, outputs, keep, options.without_workers())
    # add the zero counts of empty chunks: a data set of which cleaning left nothing has no chunk
    nothing = [Chunk(number, 0, 0, (b"", b""), 0) for number in range(len(texts))]
    return summed([*(keep(chunk).counts for chunk in nothing), *counts])


def label_pairs(keys: Path, held_out: Path) -> Labels:
    """Return whether each pair is kept, held out or a duplicate."""
    if keys.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=np.uint8)
    labels = np.fromfile(held_out, dtype=np.uint8) * np.uint8(HELD_OUT)
    first = first_occurrences(np.memmap(keys, dtype="<u8", mode="r"))
    labels[~first & (labels == KEPT)] = DUPLICATE
    return labels


def filter_chunk(names: Sequence[str], labels: Labels, chunk: Chunk) -> ChunkResult:
    """Return the pairs of a chunk that are kept; names are those of the data sets."""
    own = labels[chunk.first_line : chunk.first_line + chunk.num_lines]
    kept = own == KEPT
    texts = tuple(
        b"".join(line + b"\n" for line in compress(side.split(b"\n"), kept)) for side in chunk.sides
    )
    counts = {
        "lines": len(own),
        "duplicates": int((own == DUPLICATE).sum()),
        "held out": int((own == HELD_OUT).sum()),
        "kept": {"lines": int(kept.sum()), "bytes": sum(map(len, texts))},
    }
    return ChunkResult(texts, {names[chunk.text]: counts})
