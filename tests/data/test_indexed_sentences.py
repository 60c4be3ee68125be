"""Binarized sentences: the same as by fairseq's own readers, in every format, and never damaged."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from damage import changed
from fairseq.data.indexed_dataset import (
    IndexedDataset,
    IndexedDatasetBuilder,
    MMapIndexedDataset,
    MMapIndexedDatasetBuilder,
    make_dataset,
)

from fairseq_taskmoe.data.indexed_files import write_sentences
from fairseq_taskmoe.data.indexed_sentences import IndexedSentences, refuse_unread_format
from fairseq_taskmoe.errors import Refusal

SENTENCES = [[5, 6, 2], [2], [7, 8, 9, 10, 2], [90, 2]]
BUILDERS = {
    "mmap uint16": lambda path: MMapIndexedDatasetBuilder(path, np.uint16),
    "mmap int32": lambda path: MMapIndexedDatasetBuilder(path, np.int32),
    "mmap int64": lambda path: MMapIndexedDatasetBuilder(path, np.int64),
    "lazy": lambda path: IndexedDatasetBuilder(path),
}


def write(folder, name, sentences=SENTENCES):
    builder = BUILDERS[name](f"{folder}/set.bin")
    for sentence in sentences:
        builder.add_item(torch.tensor(sentence))
    builder.finalize(f"{folder}/set.idx")
    return f"{folder}/set"


@pytest.mark.parametrize("name", BUILDERS)
def test_sentences_equal_those_of_fairseqs_readers(name, tmp_path):
    prefix = write(tmp_path, name)
    own = IndexedSentences(prefix, num_words=91)
    stock = make_dataset(prefix, "lazy" if name == "lazy" else "mmap", fix_lua_indexing=True)
    assert len(own) == len(stock) == len(SENTENCES)
    for i, sentence in enumerate(SENTENCES):
        assert own[i].tolist() == stock[i].tolist() == sentence
        assert own[i].dtype == torch.int64
        assert own.size(i) == own.num_tokens(i) == stock.sizes[i] == len(sentence)
    assert np.array_equal(own.sizes, stock.sizes)
    again = pickle.loads(pickle.dumps(own))
    assert [again[i].tolist() for i in range(len(again))] == SENTENCES
    with pytest.raises(IndexError):
        own[len(SENTENCES)]


@pytest.mark.parametrize("name", BUILDERS)
def test_ids_beyond_the_dictionary_are_found(name, tmp_path):
    prefix = write(tmp_path, name)
    with pytest.raises(Refusal, match="set.bin: has the token id 90, and the dictionary 90 words"):
        IndexedSentences(prefix, num_words=90)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("kind", ["idx", "bin"])
def test_every_truncation_is_found(name, kind, tmp_path):
    prefix = write(tmp_path, name)
    path = tmp_path / f"set.{kind}"
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(Refusal, match=f"set.{kind}|set.bin"):
            IndexedSentences(prefix, num_words=91)
    path.write_bytes(content + b"\0")
    with pytest.raises(Refusal, match="set"):
        IndexedSentences(prefix, num_words=91)
    path.unlink()
    with pytest.raises(Refusal, match=f"set.{kind}: missing"):
        IndexedSentences(prefix, num_words=91)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_changed_byte_of_the_index_is_found_or_changes_nothing(name, tmp_path):
    import random

    prefix, draw = write(tmp_path, name), random.Random(1)
    content = (tmp_path / "set.idx").read_bytes()
    found = 0
    for place in range(len(content)):
        (tmp_path / "set.idx").write_bytes(changed(content, place, draw))
        try:
            read = IndexedSentences(prefix, num_words=91)
        except Refusal:
            found += 1
            continue
        # the width of a token, which the older format says twice; its last place, which is no
        # sentence's; and signed for unsigned ids
        assert [read[i].tolist() for i in range(len(read))] == SENTENCES
    assert found >= len(content) - 24


def test_data_of_another_kind_is_refused(tmp_path):
    prefix = write(tmp_path, "lazy")
    index = bytearray((tmp_path / "set.idx").read_bytes())
    index[16:24] = struct.pack("<Q", 7)  # floats
    (tmp_path / "set.idx").write_bytes(index)
    with pytest.raises(Refusal, match="set.idx: no index of token ids"):
        IndexedSentences(prefix, num_words=91)
    write(tmp_path, "mmap uint16", [])
    with pytest.raises(Refusal, match="set.idx: has no sentences"):
        IndexedSentences(prefix, num_words=91)


@pytest.mark.parametrize("name", ["raw", "fasta", "huffman"])
def test_other_formats_are_refused_by_their_flag(name):
    with pytest.raises(Refusal, match=f"--dataset-impl {name}: .*fairseq-preprocess"):
        refuse_unread_format(name)


def test_offsets_beyond_2_gib_are_right_after_joining(tmp_path):
    size, number = 2**28, 20
    builder = MMapIndexedDatasetBuilder(f"{tmp_path}/large.bin", np.uint16)
    builder._sizes = [np.int32(size)] * number  # as merge_file_ adds those of a part
    builder.finalize(f"{tmp_path}/large.idx")
    index = MMapIndexedDataset.Index(f"{tmp_path}/large.idx")
    assert [int(index[i][0]) for i in range(number)] == [2 * size * i for i in range(number)]
    assert IndexedDataset.exists(f"{tmp_path}/large")


def test_two_files_need_two_file_descriptors(tmp_path):
    # many pairs of languages are open at once, and a process may have 1,024
    write_sentences(tmp_path / "a", [[5, 2], [6, 7, 2]], 100)
    before = len(os.listdir("/proc/self/fd"))
    opened = IndexedSentences(str(tmp_path / "a"), 100)
    assert len(os.listdir("/proc/self/fd")) - before == 2
    assert opened[1].tolist() == [6, 7, 2]
