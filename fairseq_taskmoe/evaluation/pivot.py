"""Test sets for pairs without files of their own, from two sets with common English sentences.

English-centric data has no German-French test set. But the test sets of German and of French often
translate the same English sentences; their German and French sides then form a test set.
"""

from typing import Dict, Sequence, Tuple

from fairseq.data import Dictionary, FairseqDataset
from fairseq.utils import split_paths

from ..data.dataset_manager import (
    PivotedPair,
    RowSelection,
    TaskDatasetManager,
    holds_pair,
    pair_prefix,
)
from ..errors import refuse
from ..metrics.lang_pairs import is_english, split_pair


def pivot_missing_pairs(
    manager: TaskDatasetManager, dictionary: Dictionary, split: str, lang_pairs: Sequence[str]
) -> None:
    """Let manager load the lang_pairs that its folder lacks, made from other pairs."""
    for lang_pair in lang_pairs:
        if not manager.has_pair(split, lang_pair):
            manager.pivoted[split, lang_pair] = pivot_pair(manager, dictionary, split, lang_pair)


def pivot_pair(
    manager: TaskDatasetManager, dictionary: Dictionary, split: str, lang_pair: str
) -> PivotedPair:
    """Return the rows of a pair's sentences, in the order of the source-pivot data.

    The pivot is English if possible, else the first language that has data with both languages of
    the pair. A pivot sentence that occurs several times is used once, where it occurs first.
    Refuses a pair without a pivot or without a common sentence.
    """
    folder = split_paths(manager.args.data)[0]
    source, target = split_pair(lang_pair)
    pivots = [
        lang for lang in sorted(manager.langs, key=lambda lang: (not is_english(lang), lang))
        if lang not in (source, target)
        and holds_pair(folder, split, f"{source}-{lang}")
        and holds_pair(folder, split, f"{lang}-{target}")
    ]
    if not pivots:
        refuse(
            f"--zero-shot-pairs {lang_pair}: {folder} holds no {split} data for it, and no third "
            f"language has {split} data with both {source} and {target}"
        )
    pivot = pivots[0]

    source_set, target_set = (
        manager.load_data(f"{pair_prefix(folder, split, pair)}.{pivot}", dictionary, None)
        for pair in (f"{source}-{pivot}", f"{pivot}-{target}")
    )
    source_rows, target_rows = first_rows(source_set), first_rows(target_set)
    shared = [sentence for sentence in source_rows if sentence in target_rows]
    if not shared:
        refuse(
            f"--zero-shot-pairs {lang_pair}: the {split} data of {source}-{pivot} and "
            f"{pivot}-{target} have no sentence in {pivot} in common"
        )
    return PivotedPair(
        pivot,
        RowSelection([source_rows[sentence] for sentence in shared], len(source_set)),
        RowSelection([target_rows[sentence] for sentence in shared], len(target_set)),
    )


def first_rows(sentences: FairseqDataset) -> Dict[Tuple[int, ...], int]:
    """Return the row in which each sentence, a tuple of token ids, occurs first."""
    rows: Dict[Tuple[int, ...], int] = {}
    for row in range(len(sentences)):
        rows.setdefault(tuple(sentences[row].tolist()), row)
    return rows
