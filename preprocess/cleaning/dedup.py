"""Drop training pairs that were seen before, and those that the model will be tested on.

Pairs are compared by 64-bit keys of both sides (sentence_keys.py). All data sets of a language pair
are read twice: once for the keys, once to write the pairs that stay, the first of each kind.
"""

import hashlib
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Dict, Iterable, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

import preprocess.cleaning.sentence_keys
from fairseq_taskmoe.errors import refuse
from preprocess.chunks import Made, ProcessingOptions, process_texts
from preprocess.cleaning.sentence_keys import (
    Keys,
    first_occurrences,
    folded,
    pair_keys,
    sentence_keys,
)
from preprocess.corpus import Dataset
from preprocess.counts import Counts, summed
from preprocess.stages import code_of, file_hash, fingerprint
from preprocess.text_files import Chunk, atomic_output, decoded_lines

Pair = Tuple[str, str]
Sides = Tuple[Path, Path]  # of the source, of the target
Verdicts = NDArray[np.uint8]  # (N,), of what follows
KEPT, HELD_OUT, DUPLICATE = range(3)


def code_hash() -> str:
    """Hash the code that says which sentences are the same."""
    return fingerprint({}, [Path(__file__), *code_of(preprocess.cleaning.sentence_keys)])


def write_held_out_keys(texts: Iterable[Tuple[str, Path]], path: Path) -> int:
    """Write the sorted keys of all sentences of texts, each given with its language."""
    keys = [
        sentence_keys(language, map(folded, decoded_lines(file)))
        for language, file in texts
    ]
    # an empty line holds nothing out; in training text there is none
    unique = np.unique(np.concatenate(keys)) if keys else np.zeros(0, dtype="<u8")
    with atomic_output(path) as stream:
        np.save(stream, unique)
    return len(unique)


def load_keys(path: Path) -> Keys:
    """Return what write_held_out_keys wrote."""
    try:
        keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        refuse(f"{path}: damaged ({' '.join(str(error).split())}); remove it")
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype != np.dtype("<u8"):
        refuse(f"{path}: damaged, it holds no keys of sentences; remove it")
    return keys


def key_chunk(languages: Pair, held_out_keys: Path, chunk: Chunk) -> Made:
    """Return the keys of a chunk's pairs, and which of them are held out."""
    sides = [[folded(line) for line in side] for side in chunk.decoded()]
    keys = load_keys(held_out_keys)
    held_out = np.zeros(len(sides[0]), dtype=bool)
    for language, side in zip(languages, sides, strict=True):
        held_out |= _contained(sentence_keys(language, side), keys)
    texts = (pair_keys(*sides).tobytes(), held_out.astype(np.uint8).tobytes())
    return Made(texts, {"lines": len(held_out), "bytes": sum(map(len, chunk.sides))})


def _contained(keys: Keys, wanted: Keys) -> NDArray[np.bool_]:
    """Say of each key whether it is among the wanted ones, which are sorted."""
    if len(wanted) == 0:
        return np.zeros(len(keys), dtype=bool)
    places = np.searchsorted(wanted, keys).clip(max=len(wanted) - 1)
    return wanted[places] == keys


def dedup_pair(
    datasets: Sequence[Dataset],
    outputs: Sides,
    languages: Pair,
    held_out_keys: Path,
    work: Path,
    way: ProcessingOptions,
) -> Dict[str, Counts]:
    """Write the pairs of all data sets that stay, and return by data set what was counted.

    work gets a file of the keys, uint64 (N,), and one of what is held out, uint8 (N,).
    """
    texts = [(dataset.source, dataset.target) for dataset in datasets]
    settings = {
        "languages": languages,
        "datasets": [dataset.name for dataset in datasets],
        "code": code_hash(),
    }
    key_files = (work / "keys", work / "held_out")
    process_texts(
        texts,
        key_files,
        partial(key_chunk, languages, held_out_keys),
        work / "keys.journal",
        {**settings, "held_out": file_hash(held_out_keys)},
        way,
    )
    verdicts = judge(*key_files)
    keep = partial(filter_chunk, settings["datasets"], verdicts)
    counts = process_texts(
        texts,
        outputs,
        keep,
        work / "text.journal",
        {**settings, "verdicts": hashlib.sha256(verdicts.data).hexdigest()},
        way.alone(),
    )
    # with those of no line at all, as a data set of which cleaning left nothing has no chunk
    nothing = [Chunk(number, 0, 0, (b"", b""), 0) for number in range(len(texts))]
    return summed([*(keep(chunk).counts for chunk in nothing), *counts])


def judge(keys: Path, held_out: Path) -> Verdicts:
    """Return what is to become of each of N pairs."""
    if keys.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, dtype=np.uint8)
    verdicts = np.fromfile(held_out, dtype=np.uint8) * np.uint8(HELD_OUT)
    first = first_occurrences(np.memmap(keys, dtype="<u8", mode="r"))
    verdicts[~first & (verdicts == KEPT)] = DUPLICATE
    return verdicts


def filter_chunk(names: Sequence[str], verdicts: Verdicts, chunk: Chunk) -> Made:
    """Return the pairs of a chunk that stay."""
    own = verdicts[chunk.first_line : chunk.first_line + chunk.num_lines]
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
    return Made(texts, {names[chunk.text]: counts})
