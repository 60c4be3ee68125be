"""fairseq's files of binarized sentences, one .bin and one .idx, written and put together."""

import os
import shutil
from pathlib import Path
from typing import Iterable, List, Sequence

import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from ..files import written_together

SUFFIXES = (".bin", ".idx")


def write_sentences(prefix: Path, sentences: Iterable[List[int]], num_words: int) -> None:
    """Write sentences of token ids below num_words to prefix.bin and prefix.idx, whole or not."""
    with written_together([f"{prefix}{suffix}" for suffix in SUFFIXES]) as (data, index):
        builder = _builder(data, num_words)
        for sentence in sentences:
            builder.add_item(torch.tensor(sentence))
        builder.finalize(index)


def join_sentences(prefix: Path, parts: Sequence[Path], num_words: int) -> None:
    """Write the sentences of parts, prefixes too, one part after the other, whole or not at all."""
    with written_together([f"{prefix}{suffix}" for suffix in SUFFIXES]) as (data, index):
        builder = _builder(data, num_words)
        for part in parts:
            builder.merge_file_(str(part))
        builder.finalize(index)


def link_sentences(source: str, target: str) -> None:
    """Give the files of source the name target, too."""
    for suffix in SUFFIXES:
        link_or_copy(f"{source}{suffix}", f"{target}{suffix}")


def link_or_copy(source: str, target: str) -> None:
    """Give a file another name, or copy it where there can be no link."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)


def _builder(path: str, num_words: int) -> MMapIndexedDatasetBuilder:
    return MMapIndexedDatasetBuilder(path, dtype=best_fitting_int_dtype(num_words))
