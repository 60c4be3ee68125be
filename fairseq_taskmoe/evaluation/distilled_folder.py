"""The data folder that distillation makes: what it takes over, and what it says of itself."""

import json
import os
import re
from typing import Any, Dict, Sequence

from ..data.dataset_manager import pair_prefix
from ..data.indexed_files import SUFFIXES, link_or_copy, link_sentences
from ..errors import refuse

RECORD = "distillation.json"


def check_data(data: str, lang_pairs: Sequence[str]) -> None:
    """Refuse a data folder whose training sets are not one indexed file a side."""
    if os.pathsep in data:
        refuse(f"{data}: distill the folders of sharded data one by one")
    for pair in lang_pairs:
        source, target = pair.split("-")
        prefix = pair_prefix(data, "train", pair)
        if prefix is None:
            refuse(f"{data} holds no train data for {pair} (nor for {target}-{source}); of shards "
                   "only the first has all pairs: name those that it has with --lang-pairs")
        for lang in (source, target):
            for suffix in SUFFIXES:
                if not os.path.isfile(f"{prefix}.{lang}{suffix}"):
                    refuse(f"{prefix}.{lang}{suffix}: no such file; binarize with "
                           "fairseq-preprocess --dataset-impl mmap")
        more = pair_prefix(data, "train1", pair)
        if more is not None:
            refuse(f"{more}.{source}: more training data of {pair}; put it into one train set")


def is_complete(out: str, record: Dict[str, Any]) -> bool:
    """Say whether out was made with this record, refusing anything else that is there."""
    path = os.path.join(out, RECORD)
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        del stored["kept_references"]
        if stored == json.loads(json.dumps(record)):
            return True
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    return False


def link_what_stays(data: str, folder: str, lang_pairs: Sequence[str]) -> None:
    """Link into folder all of data but the targets to learn from.

    fairseq takes the files of the other direction where a direction has none of its own: so that
    the reverse of a pair does not learn from the pair's translations, it gets its own names.
    """
    directions = {pair: tuple(pair.split("-")) for pair in lang_pairs}
    reverse = {pair: f"{target}-{source}" for pair, (source, target) in directions.items()}
    replaced = "|".join(map(re.escape, [*directions, *reverse.values()]))
    for name in sorted(os.listdir(data)):
        path = os.path.join(data, name)
        if os.path.isfile(path) and not re.match(rf"train\.({replaced})\.", name):
            link_or_copy(path, os.path.join(folder, name))
    for pair, (source, target) in directions.items():
        prefix = pair_prefix(data, "train", pair)
        link_sentences(f"{prefix}.{source}", f"{folder}/train.{pair}.{source}")
        back = reverse[pair]
        if back not in directions:
            prefix = pair_prefix(data, "train", back)
            for lang in (source, target):
                link_sentences(f"{prefix}.{lang}", f"{folder}/train.{back}.{lang}")
