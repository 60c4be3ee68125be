"""The data folder that distillation writes: its unchanged files, and its record."""

import json
import os
import re
from typing import Any, Dict, Sequence

from ..data.dataset_manager import pair_prefix, refuse_missing_pair
from ..data.indexed_files import link_or_copy, link_sentences
from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from ..read_files import read_json

RECORD = "distillation.json"


def check_data(data: str, lang_pairs: Sequence[str]) -> None:
    """Refuse a data folder whose training sets are not one indexed file for each side."""
    if os.pathsep in data:
        refuse(f"{data}: distill the folders of sharded data one at a time")
    for pair in lang_pairs:
        if pair_prefix(data, "train", pair) is None:
            refuse_missing_pair(data, "train", pair)
        more = pair_prefix(data, "train1", pair)
        if more is not None:
            refuse(f"{more}.{pair.split('-')[0]}: more training data for {pair}; merge it into one "
                   "train set")


def is_complete(out: str, record: Dict[str, Any]) -> bool:
    """Tell whether out was made with this record; refuses a folder with other contents."""
    path = os.path.join(out, RECORD)
    if os.path.isfile(path):
        stored = read_json(path, "record of a distillation")
        if isinstance(stored, dict):
            stored.pop("kept_references", None)
        if stored == json.loads(json.dumps(record)):
            return True
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten (its {RECORD} is missing or has other "
               "settings)")
    return False


def link_unchanged(data: str, folder: str, lang_pairs: Sequence[str]) -> None:
    """Link all files of data into folder, except the training targets of lang_pairs.

    fairseq uses the files of the reverse direction if a direction has none of its own. The reverse
    of a pair therefore gets files of its own, so that it is not trained on the translations.
    """
    directions = {pair: tuple(split_pair(pair)) for pair in lang_pairs}
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
