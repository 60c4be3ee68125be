"""The file of languages: how much training data each has, and its class of resources.

    de: {train_pairs: 4508785, class: high}
"""

from pathlib import Path
from typing import NamedTuple, Union

import yaml

from ..errors import refuse
from ..read_files import read_yaml
from .scoring import FIXED_GROUPS, is_english


class Language(NamedTuple):
    """What the file says of a language."""

    train_pairs: int  # sentence pairs with English
    resources: str  # its class: high, low, ...


def read_languages(path: Union[str, Path]) -> dict[str, Language]:
    """Return the languages of a file but English, most text first.

    Refuses, naming the file, what is not such a file.
    """
    # BaseLoader leaves all words as they are: the safe one takes Norwegian, no, for False
    content = read_yaml(path, yaml.BaseLoader)
    if not isinstance(content, dict) or not content:
        refuse(f"{path}: write `de: {{train_pairs: 1000, class: high}}`, a language a line")
    languages = {}
    for code, entry in content.items():
        if is_english(code):
            continue
        count = entry.get("train_pairs") if isinstance(entry, dict) else None
        name = entry.get("class") if isinstance(entry, dict) else None
        if not (isinstance(count, str) and count.replace("_", "").isdecimal()):
            refuse(f"{path}: {code}: train_pairs is no number of sentence pairs")
        if not isinstance(name, str) or not name or name in FIXED_GROUPS:
            refuse(f"{path}: {code}: class is no name such as high or low")
        languages[code] = Language(int(count), name)
    return dict(sorted(languages.items(), key=lambda item: (-item[1].train_pairs, item[0])))
