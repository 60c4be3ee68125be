"""A sub-network with the words that its language pairs use, and no others.

Embeddings and output layer lose the rows of the other words, which are most of a small model's
parameters. The encoder's output stays the same for a text of kept words; the softmax is over fewer
words, so probabilities grow, and their order stays the same.
"""

import os
import re
from collections import Counter
from typing import Dict, List, Optional, Sequence, Set

import numpy as np
import sentencepiece
from torch import Tensor
from tqdm import tqdm

from ..data.dataset_manager import pair_prefix, refuse_missing_pair
from ..data.indexed_sentences import IndexedSentences
from ..data.languages import (
    NUM_SPECIAL,
    check_words,
    load_joined_dictionary,
    make_dictionary,
)
from ..errors import refuse
from ..host import available_cores
from ..metrics.lang_pairs import languages_of, split_pair
from ..names import WORD_ROWS
from ..read_files import iterate_lines
from .extract import Subnet

FLAG, COUNTS = "--trim-vocabulary", "counts:"
LINES_AT_ONCE = 10000


def trim_vocabulary(subnet: Subnet, used: Set[str]) -> Subnet:
    """Return the sub-network with the words of used, special ones, and the tags of its pairs."""
    symbols = make_dictionary(subnet.words, subnet.tags).symbols
    rows_before = subnet.state[WORD_ROWS[0]].size(0)
    if rows_before != len(symbols):
        refuse(f"the embeddings have {rows_before} rows for {len(symbols)} words and tags: "
               "no vocabulary to trim")
    kept = [i for i, word in enumerate(subnet.words) if i < NUM_SPECIAL or word in used]
    langs = languages_of(subnet.lang_pairs)
    tags = subnet.tags._replace(langs=tuple(lang for lang in subnet.tags.langs if lang in langs))
    words = [subnet.words[i] for i in kept]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    rows = [ids[symbol] for symbol in make_dictionary(words, tags).symbols]
    state = dict(subnet.state)
    sliced: Dict[int, Tensor] = {}  # of tables that share their memory, one copy
    for name in set(WORD_ROWS) & set(state):
        table = state[name]
        if table.data_ptr() not in sliced:
            sliced[table.data_ptr()] = table[rows]
        state[name] = sliced[table.data_ptr()]
    counts = [subnet.word_counts[i] for i in kept]
    return subnet._replace(state=state, words=words, word_counts=counts, tags=tags)


def used_words(
    source: str, lang_pairs: Sequence[str], words: List[str],
    spm: Optional[sentencepiece.SentencePieceProcessor], min_count: int,
) -> Set[str]:
    """Return which of a model's words occur in a source at least min_count times.

    A source is one of: text files, joined by commas, of either language; counts:FILE, with a word
    and its count on each line as in dict.txt; a folder of binarized data, whose training sets of
    lang_pairs count. Every character of a word that is kept is kept too, so that the
    SentencePiece model can spell other words, and so are single bytes.
    """
    if source.startswith(COUNTS):
        counts = _read_counts(source.removeprefix(COUNTS))
    elif os.path.isdir(source):
        counts = _count_binarized(source, lang_pairs, words)
    else:
        counts = _count_text(source.split(","), spm)
    used = {word for word, count in counts.items() if count >= min_count}
    if spm is not None:
        used |= {spm.id_to_piece(i) for i in range(len(spm)) if spm.is_byte(i)}
    used |= {character for word in used for character in word}
    if used.isdisjoint(words[NUM_SPECIAL:]):
        refuse(f"{FLAG} {source}: none of its words is in the model's vocabulary")
    return used


def _read_counts(path: str) -> Dict[str, int]:
    counts: Dict[str, int] = Counter()  # counts of several texts may stand one below the other
    for number, line in enumerate(iterate_lines(path, FLAG), 1):
        word, _, count = line.rpartition("\t" if "\t" in line else " ")
        if not word or not re.fullmatch("[0-9]{1,18}", count):
            refuse(f"{FLAG} {path}: line {number} is no word with its count")
        counts[word] += int(count)
    return counts


def _count_text(
    paths: Sequence[str], spm: Optional[sentencepiece.SentencePieceProcessor]
) -> Dict[str, int]:
    if spm is None:
        refuse(f"{FLAG} {paths[0]}: counting the pieces of a text needs a SentencePiece "
               "model (--sentencepiece-model)")
    counts: Dict[str, int] = Counter()
    for path in paths:
        lines: List[str] = []
        text = iterate_lines(path, FLAG)
        for line in tqdm(text, os.path.basename(path), unit="line", disable=None):
            lines.append(line)
            if len(lines) == LINES_AT_ONCE:
                _count_pieces(lines, spm, counts)
                lines = []
        _count_pieces(lines, spm, counts)
    return counts


def _count_pieces(
    lines: List[str], spm: sentencepiece.SentencePieceProcessor, counts: Dict[str, int]
) -> None:
    for pieces in spm.encode(lines, out_type=str, num_threads=available_cores()):
        for piece in pieces:
            counts[piece] = counts.get(piece, 0) + 1


def _count_binarized(folder: str, lang_pairs: Sequence[str], words: List[str]) -> Dict[str, int]:
    dictionary = load_joined_dictionary(folder, languages_of(lang_pairs))
    check_words(dictionary.symbols, words)
    counts = np.zeros(len(dictionary), dtype=np.int64)
    files = set()  # both directions of a pair have the same
    for pair in lang_pairs:
        prefix = pair_prefix(folder, "train", pair)
        if prefix is None:
            refuse_missing_pair(folder, "train", pair)
        files |= {f"{prefix}.{lang}" for lang in split_pair(pair)}
    for file in sorted(files):
        dataset = IndexedSentences(file, len(dictionary))
        starts = range(0, len(dataset), LINES_AT_ONCE)
        for start in tqdm(starts, os.path.basename(file), leave=False, disable=None):
            sentences = range(start, min(start + LINES_AT_ONCE, len(dataset)))
            tokens = np.concatenate([dataset[i].numpy() for i in sentences])
            counts += np.bincount(tokens, minlength=len(counts))
    return {dictionary[i]: int(count) for i, count in enumerate(counts) if count}
