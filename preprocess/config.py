"""What a corpus is to become: the YAML file that `python -m preprocess.run` reads."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, TypeVar

import yaml

from fairseq_taskmoe.errors import refuse
from preprocess.rules import Limits

Settings = TypeVar("Settings")
# what YAML may give for a field's type; all others are lists
ALLOWED: Dict[Any, Tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}


@dataclass(frozen=True)
class Config:
    """The settings of a corpus. Pairs are written English first: en-de."""

    pairs: List[str]  # trained on, in both directions
    zero_shot_pairs: List[str] = field(default_factory=list)  # validation and test sets only
    rules: Limits = field(default_factory=Limits)
    vocab_size: int = 64000
    character_coverage: float = 0.9995  # share of characters that get pieces of their own
    byte_fallback: bool = False  # spell the others in bytes
    temperature: float = 5.0  # T of the sample that SentencePiece is trained on
    sample_lines: int = 5_000_000  # most lines of the sample, all languages together
    sentencepiece_threads: int = 1  # the model depends on their number
    seed: int = 1
    shards: int = 1  # folders of binarized training data, of which fairseq loads one an epoch
    high_resource_pairs: int = 1_000_000  # languages with more training pairs are of class high
    chunk_lines: int = 50_000  # lines that a worker takes at once

    @property
    def all_pairs(self) -> List[str]:
        return [*self.pairs, *self.zero_shot_pairs]

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def load_config(path: Path) -> Config:
    """Read a configuration, refusing what is not one: unknown keys, wrong types, bad pairs."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        refuse(f"{path}: {' '.join(str(error).split())}")
    if not isinstance(content, dict) or not content.get("pairs"):
        refuse(f"{path}: needs a list of pairs, as in `pairs: [en-de, en-fr]`")
    rules = content.pop("rules", None) or {}
    if not isinstance(rules, dict):
        refuse(f"{path}: rules: expected names with values, as in `rules: {{max_words: 100}}`")
    config = Config(
        **_checked(Config, content, str(path)),
        rules=Limits(**_checked(Limits, rules, f"{path}: rules")),
    )
    _check_values(config, path)
    return config


def _checked(settings: Type[Settings], content: Dict[str, Any], where: str) -> Dict[str, Any]:
    """Return content if it fits the fields of a dataclass."""
    types = {one.name: one.type for one in fields(settings)}  # type: ignore[arg-type]
    for name, value in content.items():
        if name not in types:
            refuse(f"{where}: unknown setting {name}; known are {', '.join(types)}")
        allowed = ALLOWED.get(types[name], (list,))
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            refuse(f"{where}: {name}: {value!r} is not of type {allowed[-1].__name__}")
    return content


def _check_values(config: Config, path: Path) -> None:
    for pair in config.all_pairs:
        sides = pair.split("-") if isinstance(pair, str) else []
        if len(sides) != 2 or not all(sides) or sides[0] == sides[1]:
            refuse(f'{path}: pairs: {pair!r} is no pair, as en-de is; quote names like "en-no"')
    if len(set(config.all_pairs)) < len(config.all_pairs):
        refuse(f"{path}: a pair is named twice: {', '.join(config.all_pairs)}")
    for name in ("vocab_size", "temperature", "sample_lines", "shards", "chunk_lines"):
        if getattr(config, name) <= 0:
            refuse(f"{path}: {name}: {getattr(config, name)} is not positive")
