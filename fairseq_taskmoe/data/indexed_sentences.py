"""Sentences of token ids in fairseq's .bin and .idx files, checked where they are opened.

The index has a header, then for N sentences
    --dataset-impl mmap:           sizes (N,) int32, and places in the .bin (N,) int64, in bytes
    --dataset-impl lazy, cached:   running sum of the numbers of dimensions (N + 1,), places
                                   (N + 1,) in tokens, and sizes (N,), all int64; ids are stored
                                   plus one
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
TYPES = {  # of token ids, by their number in a header
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64,
    8: np.uint16, 9: np.uint32, 10: np.uint64,
}
READ = ("mmap", "lazy", "cached")  # by --dataset-impl; a file states its own format
LONGEST_HEADER = 48  # bytes
AT_ONCE = 2**22  # numbers that are checked together
BINARIZE = "binarize the text with fairseq-preprocess --dataset-impl mmap"


class Index(NamedTuple):
    """The content of an index: arrays that stay on the disk."""

    type: Any  # of the token ids
    sizes: NDArray[Any]  # (N,) tokens of each sentence
    places: NDArray[Any]  # (N,) where it starts in the .bin
    unit: int  # of the places, in bytes
    first_id: int  # how token 0 is stored


class Damaged(Exception):
    """A file does not agree with its header or with the other file; the message says why."""


class IndexedSentences(FairseqDataset):
    """Memory-mapped sentences, (size,) int64 each, of ids below num_words."""

    def __init__(self, prefix: str, num_words: int):
        """Open prefix.bin and prefix.idx, refusing what is damaged.

        All ids are checked, in one pass over the file: one beyond the dictionary would stop a
        training half-way. fairseq, too, reads the whole file when it opens it.
        """
        super().__init__()
        self.prefix, self.num_words = prefix, num_words
        file = f"{prefix}.idx"
        try:
            index = _read_index(file)
            file = f"{prefix}.bin"
            size = _size(file)
            _check_places(index, size)
            self._tokens = _mapped(file).view(index.type)
            _check_ids(self._tokens, index.first_id, num_words)
        except Damaged as problem:
            refuse(f"{file}: {problem}")
        except OSError as problem:
            refuse(f"{file}: {problem.strerror or problem}")
        self.sizes = index.sizes
        self._places, self._first_id = index.places, index.first_id
        self._places_per_token = np.dtype(index.type).itemsize // index.unit

    def __reduce__(self) -> Tuple[Any, ...]:
        return IndexedSentences, (self.prefix, self.num_words)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self.sizes):
            raise IndexError(f"{self.prefix} has no sentence {index}")
        start = int(self._places[index]) // self._places_per_token
        ids = self._tokens[start : start + int(self.sizes[index])].astype(np.int64)
        if self._first_id:
            ids -= self._first_id
        return torch.from_numpy(ids)

    def num_tokens(self, index: int) -> int:
        return self.sizes[index]

    def size(self, index: int) -> int:
        return self.sizes[index]


def refuse_unread_format(dataset_impl: Optional[Any]) -> None:
    """Refuse a --dataset-impl whose files are not read here."""
    if dataset_impl is not None and str(dataset_impl) not in READ:
        refuse(f"--dataset-impl {dataset_impl}: not read by this plugin; {BINARIZE}")


def _size(path: str) -> int:
    if not os.path.exists(path):
        raise Damaged(f"missing; {BINARIZE}")
    if os.path.isdir(path):
        raise Damaged("a folder, not a file")
    if not os.path.getsize(path):
        raise Damaged("empty")
    return os.path.getsize(path)


def _mapped(path: str) -> NDArray[np.uint8]:
    """Return the bytes of a file, mapped once: a mapping keeps a file descriptor."""
    # as a plain array: slices of a memmap are ten times as slow
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
                raise Damaged("holds other data than sentences")
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
    dimensions, places, sizes = arrays
    for begin, end in _pieces(number + 1):
        if not np.array_equal(dimensions[begin:end], np.arange(begin, end)):
            raise Damaged("holds other data than sentences, or is damaged")
    return Index(TYPES[code], sizes, places, np.dtype(TYPES[code]).itemsize, 1)


def _check_places(index: Index, bin_size: int) -> None:
    """Refuse sentences that do not follow one another through the whole .bin."""
    width, place = np.dtype(index.type).itemsize, 0
    for begin, end in _pieces(len(index.sizes)):
        sizes = index.sizes[begin:end].astype(np.int64)
        ends = place + np.cumsum(sizes) * (width // index.unit)
        starts = ends - sizes * (width // index.unit)
        if (sizes < 0).any() or not np.array_equal(index.places[begin:end], starts):
            raise Damaged("its index is damaged: the places of sentences do not follow from their "
                          f"sizes; {BINARIZE}")
        place = int(ends[-1])
    if place * index.unit != bin_size:
        raise Damaged(f"has {bin_size} bytes, but {place * index.unit} by its index: truncated, "
                      "or it belongs to another index")


def _check_ids(tokens: NDArray[Any], first_id: int, num_words: int) -> None:
    for begin, end in _pieces(len(tokens)):
        piece = tokens[begin:end]
        lowest, highest = int(piece.min()) - first_id, int(piece.max()) - first_id
        if lowest < 0 or highest >= num_words:
            raise Damaged(f"has the token id {lowest if lowest < 0 else highest}, and the "
                          f"dictionary {num_words} words: damaged, or made with another dictionary")


def _pieces(number: int) -> Any:
    """Yield begin and end of pieces of a long array."""
    for begin in range(0, number, AT_ONCE):
        yield begin, min(begin + AT_ONCE, number)
