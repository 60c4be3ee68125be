"""Sentences of token ids in fairseq's .bin and .idx files, which are checked when opened.

The index has a header, then for N sentences
    --dataset-impl mmap:           sizes (N,) int32, and offsets in the .bin (N,) int64, in bytes
    --dataset-impl lazy, cached:   cumulative numbers of dimensions (N + 1,), offsets (N + 1,) in
                                   tokens, and sizes (N,), all int64; stored ids are one larger
"""

import os
import struct
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from numpy.typing import NDArray
from torch import Tensor

from ..errors import refuse

MMAP, LAZY = b"MMIDIDX\0\0", b"TNTIDX\0\0"
TYPES = {  # types of token ids, by their code in the header
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64,
    8: np.uint16, 9: np.uint32, 10: np.uint64,
}
READ = ("mmap", "lazy", "cached")  # formats of --dataset-impl; files contain their format
LONGEST_HEADER = 48  # bytes
CHUNK = 2**22  # numbers that are checked at once
BINARIZE = "binarize the text with fairseq-preprocess --dataset-impl mmap"


class Index(NamedTuple):
    """The content of an index, as memory-mapped arrays."""

    type: Any  # of the token ids
    sizes: NDArray[Any]  # (N,) tokens of each sentence
    offsets: NDArray[Any]  # (N,) start of each sentence in the .bin
    unit: int  # of the offsets, in bytes
    first_id: int  # stored value of token 0


class Damaged(Exception):
    """A file does not match its header or the other file; the message says why."""


class IndexedSentences(FairseqDataset):
    """Memory-mapped sentences, (size,) int64 each, of ids below num_words."""

    def __init__(self, prefix: str, num_words: int):
        """Open prefix.bin and prefix.idx, refusing damaged files.

        All ids are checked in one pass over the file, since one beyond the dictionary would stop
        training later. fairseq also reads the whole file when opening it.
        """
        super().__init__()
        self.prefix, self.num_words = prefix, num_words
        file = f"{prefix}.idx"
        try:
            index = _read_index(file)
            file = f"{prefix}.bin"
            size = _size(file)
            _check_offsets(index, size)
            self._tokens = _mapped(file).view(index.type)
            _check_ids(self._tokens, index.first_id, num_words)
        except Damaged as problem:
            refuse(f"{file}: {problem}")
        except OSError as problem:
            refuse(f"{file}: {problem.strerror or problem}")
        self.sizes = index.sizes
        self._offsets, self._first_id = index.offsets, index.first_id
        self._units_per_token = np.dtype(index.type).itemsize // index.unit

    def __reduce__(self) -> Tuple[Any, ...]:
        return IndexedSentences, (self.prefix, self.num_words)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self.sizes):
            raise IndexError(f"{self.prefix} has no sentence {index}")
        start = int(self._offsets[index]) // self._units_per_token
        ids = self._tokens[start : start + int(self.sizes[index])].astype(np.int64)
        if self._first_id:
            ids -= self._first_id
        return torch.from_numpy(ids)

    def num_tokens(self, index: int) -> int:
        return self.sizes[index]

    def size(self, index: int) -> int:
        return self.sizes[index]


def refuse_unread_format(dataset_impl: Optional[Any]) -> None:
    """Refuse a --dataset-impl whose files cannot be read here."""
    if dataset_impl is not None and str(dataset_impl) not in READ:
        refuse(f"--dataset-impl {dataset_impl}: not supported; {BINARIZE}")


def _size(path: str) -> int:
    if not os.path.exists(path):
        raise Damaged(f"missing; {BINARIZE}")
    if os.path.isdir(path):
        raise Damaged("a folder, not a file")
    if not os.path.getsize(path):
        raise Damaged("empty")
    return os.path.getsize(path)


def _mapped(path: str) -> NDArray[np.uint8]:
    """Return the bytes of a file as one memory map, which needs a file descriptor."""
    # as a plain array, since slices of a memmap are ten times slower
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def _read_index(path: str) -> Index:
    size = _size(path)
    with open(path, "rb") as file:
        header = file.read(LONGEST_HEADER)
    try:
        if header.startswith(MMAP):
            version, code, number = struct.unpack_from("<QBQ", header, len(MMAP))
            parts: List[Tuple[Any, int]] = [(np.int32, number), (np.int64, number)]
            start = 26
        elif header.startswith(LAZY):
            version, code, _, number, num_sizes = struct.unpack_from("<QQQQQ", header, len(LAZY))
            if num_sizes != number:
                raise Damaged("contains other data than sentences")
            parts = [(np.int64, number + 1), (np.int64, number + 1), (np.int64, number)]
            start = LONGEST_HEADER
        else:
            raise Damaged(f"not an index that fairseq wrote; {BINARIZE}")
    except struct.error as problem:
        raise Damaged("truncated: it ends in its header") from problem
    if version != 1 or code not in TYPES:
        raise Damaged("no index of token ids, or a damaged one")
    if number == 0:
        raise Damaged("has no sentences")
    expected = start + sum(np.dtype(kind).itemsize * length for kind, length in parts)
    if size != expected:
        raise Damaged(f"damaged: an index of {number} sentences has {expected} bytes, not {size}")
    arrays, content = [], _mapped(path)
    for kind, length in parts:
        end = start + length * np.dtype(kind).itemsize
        arrays.append(content[start:end].view(kind))
        start = end
    if len(parts) == 2:
        return Index(TYPES[code], arrays[0], arrays[1], 1, 0)
    dimensions, offsets, sizes = arrays
    for begin, end in _chunks(number + 1):
        if not np.array_equal(dimensions[begin:end], np.arange(begin, end)):
            raise Damaged("contains other data than sentences, or is damaged")
    return Index(TYPES[code], sizes, offsets, np.dtype(TYPES[code]).itemsize, 1)


def _check_offsets(index: Index, bin_size: int) -> None:
    """Refuse an index whose sentences do not exactly fill the .bin."""
    width, offset = np.dtype(index.type).itemsize, 0
    for begin, end in _chunks(len(index.sizes)):
        sizes = index.sizes[begin:end].astype(np.int64)
        ends = offset + np.cumsum(sizes) * (width // index.unit)
        starts = ends - sizes * (width // index.unit)
        if (sizes < 0).any() or not np.array_equal(index.offsets[begin:end], starts):
            raise Damaged("its index is damaged: the offsets of sentences do not match their "
                          f"sizes; {BINARIZE}")
        offset = int(ends[-1])
    if offset * index.unit != bin_size:
        raise Damaged(f"has {bin_size} bytes, but {offset * index.unit} by its index: truncated, "
                      "or it belongs to another index")


def _check_ids(tokens: NDArray[Any], first_id: int, num_words: int) -> None:
    for begin, end in _chunks(len(tokens)):
        chunk = tokens[begin:end]
        lowest, highest = int(chunk.min()) - first_id, int(chunk.max()) - first_id
        if lowest < 0 or highest >= num_words:
            raise Damaged(f"has the token id {lowest if lowest < 0 else highest}, and the "
                          f"dictionary {num_words} words: damaged, or made with another dictionary")


def _chunks(number: int) -> Any:
    """Yield begin and end of chunks of an array of length `number`."""
    for begin in range(0, number, CHUNK):
        yield begin, min(begin + CHUNK, number)
