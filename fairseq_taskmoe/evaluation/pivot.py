"""Test sets of pairs that no file holds: sentences whose English is the same in two other sets.

Data around English has no German-French test set, though the two languages' sets often translate
the same English sentences. Their other sides are then translations of one another.
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
from ..metrics.scoring import is_english


def pivot_missing_pairs(
    manager: TaskDatasetManager, dictionary: Dictionary, split: str, lang_pairs: Sequence[str]
) -> None:
    """Let manager load those of lang_pairs that its folder does not hold, made from other pairs."""
    for lang_pair in lang_pairs:
        if not manager.has_pair(split, lang_pair):
            manager.pivoted[split, lang_pair] = pivot_pair(manager, dictionary, split, lang_pair)


def pivot_pair(
    manager: TaskDatasetManager, dictionary: Dictionary, split: str, lang_pair: str
) -> PivotedPair:
    """Return the rows of a pair's sentences, in the order of the data of source and pivot.

    The pivot is English, or else the first language that has data with both of the pair's. A
    sentence of the pivot that occurs several times counts once, where it is first. Refuses a pair
    without a pivot, or without a common sentence.
    """
    folder = split_paths(manager.args.data)[0]
    source, target = lang_pair.split("-")
    pivots = [
        lang for lang in sorted(manager.langs, key=lambda lang: (not is_english(lang), lang))
        if lang not in (source, target)
        and holds_pair(folder, split, f"{source}-{lang}")
        and holds_pair(folder, split, f"{lang}-{target}")
    ]
    if not pivots:
        refuse(
            f"--zero-shot-pairs {lang_pair}: {folder} holds no {split} data for it, and none of "
            f"both {source} and {target} with a third language"
        )
    pivot = pivots[0]

    source_set, target_set = (
        manager.load_data(f"{pair_prefix(folder, split, pair)}.{pivot}", dictionary, None)
        for pair in (f"{source}-{pivot}", f"{pivot}-{target}")
    )
    of_source, of_target = first_rows(source_set), first_rows(target_set)
    shared = [sentence for sentence in of_source if sentence in of_target]
    if not shared:
        refuse(
            f"--zero-shot-pairs {lang_pair}: the {split} data of {source}-{pivot} and "
            f"{pivot}-{target} have no sentence in {pivot} in common"
        )
    return PivotedPair(
        pivot,
        RowSelection([of_source[sentence] for sentence in shared], len(source_set)),
        RowSelection([of_target[sentence] for sentence in shared], len(target_set)),
    )


def first_rows(sentences: FairseqDataset) -> Dict[Tuple[int, ...], int]:
    """Return the row in which each sentence, a row of token ids, is for the first time."""
    rows: Dict[Tuple[int, ...], int] = {}
    for row in range(len(sentences)):
        rows.setdefault(tuple(sentences[row].tolist()), row)
    return rows
