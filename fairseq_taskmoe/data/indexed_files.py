"""Writing and joining fairseq's files of binarized sentences, .bin and .idx."""

import os
import shutil
from pathlib import Path
from typing import Iterable, List, Sequence

import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from ..files import written_together

SUFFIXES = (".bin", ".idx")


def write_sentences(prefix: Path, sentences: Iterable[List[int]], num_words: int) -> None:
    """Write sentences of token ids below num_words to prefix.bin and prefix.idx atomically."""
    with written_together([f"{prefix}{suffix}" for suffix in SUFFIXES]) as (data, index):
        builder = _builder(data, num_words)
        for sentence in sentences:
            builder.add_item(torch.tensor(sentence))
        builder.finalize(index)


def join_sentences(prefix: Path, parts: Sequence[Path], num_words: int) -> None:
    """Write the concatenation of the files with prefixes `parts` atomically."""
    with written_together([f"{prefix}{suffix}" for suffix in SUFFIXES]) as (data, index):
        builder = _builder(data, num_words)
        for part in parts:
            builder.merge_file_(str(part))
        builder.finalize(index)


def link_sentences(source: str, target: str) -> None:
    """Link the files with prefix source to prefix target."""
    for suffix in SUFFIXES:
        link_or_copy(f"{source}{suffix}", f"{target}{suffix}")


def link_or_copy(source: str, target: str) -> None:
    """Make a hard link to a file, or copy it if that is not possible."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _builder(path: str, num_words: int) -> MMapIndexedDatasetBuilder:
    return MMapIndexedDatasetBuilder(path, dtype=best_fitting_int_dtype(num_words))
