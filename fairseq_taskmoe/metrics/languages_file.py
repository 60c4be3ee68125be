"""The file of languages, with the amount of training data and the resource class of each.

    de: {train_pairs: 4508785, class: high}
"""

from pathlib import Path
from typing import Dict, NamedTuple, Union

import yaml

from ..errors import refuse
from ..read_files import read_yaml
from .lang_pairs import is_english
from .scoring import FIXED_GROUPS


class Language(NamedTuple):
    """The entry of a language."""

    train_pairs: int  # sentence pairs with English
    resources: str  # resource class: high, low, ...


def read_languages(path: Union[str, Path]) -> Dict[str, Language]:
    """Return the languages in a file except English, those with most data first.

    Refuses an invalid file, with its name.
    """
    # BaseLoader reads all words as text; the safe loader reads `no` (Norwegian) as False
    content = read_yaml(path, yaml.BaseLoader)
    if not isinstance(content, dict) or not content:
        refuse(f"{path}: write `de: {{train_pairs: 1000, class: high}}`, one language per line")
    languages = {}
    for code, entry in content.items():
        if is_english(code):
            continue
        count = entry.get("train_pairs") if isinstance(entry, dict) else None
        name = entry.get("class") if isinstance(entry, dict) else None
        if not (isinstance(count, str) and count.replace("_", "").isdecimal()):
            refuse(f"{path}: {code}: train_pairs is not a number of sentence pairs")
        if not isinstance(name, str) or not name or name in FIXED_GROUPS:
            refuse(f"{path}: {code}: class is not a name such as high or low")
        languages[code] = Language(int(count), name)
    return dict(sorted(languages.items(), key=lambda item: (-item[1].train_pairs, item[0])))
