"""The configuration of `python -m preprocess.run`, a YAML file."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, TypeVar

from fairseq_taskmoe.errors import refuse

from .cleaning.rules import Limits
from .sentencepiece_model import COVERAGES, MIN_TEMPERATURE
from .yaml_settings import check_pair, read_mapping, refuse_type

Settings = TypeVar("Settings")
# types of YAML that a field accepts; all other fields are lists
ALLOWED: Dict[Any, Tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}
MAX_INT = 2**31 - 1  # of SentencePiece and of C
COUNT = (1, MAX_INT)
SHARE = (0, 1)
BOUNDS: Dict[str, Tuple[float, float]] = {
    "vocab_size": COUNT,
    "character_coverage": COVERAGES,
    "temperature": (MIN_TEMPERATURE, math.inf),
    "sample_lines": COUNT,
    "sentencepiece_threads": (1, 1024),
    "shards": COUNT,
    "high_resource_pairs": (0, math.inf),
    "chunk_lines": COUNT,
}
RULE_BOUNDS: Dict[str, Tuple[float, float]] = {
    "max_words": (0, MAX_INT),
    "max_chars": (0, MAX_INT),
    "max_word_chars": (0, MAX_INT),
    "max_length_ratio": (0, MAX_INT),
    "min_script_share": SHARE,
    "min_letter_share": SHARE,
    "min_digit_overlap": SHARE,
}


@dataclass(frozen=True)
class Config:
    """The settings of a corpus. English is the first language of a pair: en-de."""

    pairs: List[str]  # trained in both directions
    zero_shot_pairs: List[str] = field(default_factory=list)  # with validation and test sets only
    rules: Limits = field(default_factory=Limits)
    vocab_size: int = 64000
    character_coverage: float = 0.9995  # share of characters that get their own pieces
    byte_fallback: bool = False  # encode the others as bytes
    temperature: float = 5.0  # T of sampling the text that SentencePiece is trained on
    sample_lines: int = 5_000_000  # maximum lines of that text, all languages together
    sentencepiece_threads: int = 1  # the model depends on it
    seed: int = 1
    shards: int = 1  # of the largest pair's training data; fairseq loads one in an epoch
    high_resource_pairs: int = 1_000_000  # languages with more training pairs have class high
    chunk_lines: int = 50_000  # lines that a worker processes at once

    @property
    def all_pairs(self) -> List[str]:
        return [*self.pairs, *self.zero_shot_pairs]


def load_config(path: Path) -> Config:
    """Read a configuration; refuses unknown keys, wrong types and bad values."""
    content = read_mapping(path, "a list of pairs, as in `pairs: [en-de, en-fr]`")
    if not content.get("pairs"):
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
    """Return content; refuses names and types that do not fit the fields of a dataclass."""
    types = {one.name: one.type for one in fields(settings)}  # type: ignore[arg-type]
    for name, value in content.items():
        if name not in types:
            refuse(f"{where}: unknown setting {name}; known are {', '.join(types)}")
        allowed = ALLOWED.get(types[name], (list,))
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            refuse_type(f"{where}: {name}", value, f"of type {allowed[-1].__name__}")
    return content


def _check_values(config: Config, path: Path) -> None:
    for pair in config.all_pairs:
        expected = f'{pair!r} is no pair; write it as en-de, with quotes for names like "en-no"'
        check_pair(pair, f"{path}: pairs", expected)
    if len(set(config.all_pairs)) < len(config.all_pairs):
        refuse(f"{path}: a pair is named twice: {', '.join(config.all_pairs)}")
    _check_bounds(config, BOUNDS, str(path))
    _check_bounds(config.rules, RULE_BOUNDS, f"{path}: rules")
    if 0 < config.rules.max_length_ratio < 1:
        refuse(f"{path}: rules: max_length_ratio: {config.rules.max_length_ratio} is below 1; "
               "0 switches the rule off")
    if config.sample_lines < config.vocab_size:
        refuse(f"{path}: sample_lines: {config.sample_lines} are too few for a vocab_size of "
               f"{config.vocab_size}: give at least one line for each piece")


def _check_bounds(settings: Any, bounds: Dict[str, Tuple[float, float]], where: str) -> None:
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if not least <= value <= most or value == math.inf:  # nan fails the first condition
            limits = f"from {least} to {most}" if most < MAX_INT else f"{least} or more"
            refuse_type(f"{where}: {name}", value, limits)
