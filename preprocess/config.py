"""What a corpus is to become: the YAML file that `python -m preprocess.run` reads."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, TypeVar

from fairseq_taskmoe.errors import refuse
from preprocess.cleaning.rules import Limits
from preprocess.sentencepiece_model import COVERAGES, MIN_TEMPERATURE
from preprocess.yaml_settings import check_pair, read_mapping, refuse_type

Settings = TypeVar("Settings")
# what YAML may give for a field's type; all others are lists
ALLOWED: Dict[Any, Tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}
MOST_INT = 2**31 - 1  # SentencePiece's and the system's
COUNT = (1, MOST_INT)
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
BOUNDS_OF_RULES: Dict[str, Tuple[float, float]] = {
    "max_words": (0, MOST_INT),
    "max_chars": (0, MOST_INT),
    "max_word_chars": (0, MOST_INT),
    "max_length_ratio": (0, MOST_INT),
    "min_script_share": SHARE,
    "min_letter_share": SHARE,
    "min_digit_overlap": SHARE,
}


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
    shards: int = 1  # of the largest pair's training data, of which fairseq loads one an epoch
    high_resource_pairs: int = 1_000_000  # languages with more training pairs are of class high
    chunk_lines: int = 50_000  # lines that a worker takes at once

    @property
    def all_pairs(self) -> List[str]:
        return [*self.pairs, *self.zero_shot_pairs]

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def load_config(path: Path) -> Config:
    """Read a configuration, refusing what is not one: unknown keys, wrong types, bad pairs."""
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
    """Return content if it fits the fields of a dataclass."""
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
        expected = f'{pair!r} is no pair, as en-de is; quote names like "en-no"'
        check_pair(pair, f"{path}: pairs", expected)
    if len(set(config.all_pairs)) < len(config.all_pairs):
        refuse(f"{path}: a pair is named twice: {', '.join(config.all_pairs)}")
    _check_bounds(config, BOUNDS, str(path))
    _check_bounds(config.rules, BOUNDS_OF_RULES, f"{path}: rules")
    if 0 < config.rules.max_length_ratio < 1:
        refuse(f"{path}: rules: max_length_ratio: {config.rules.max_length_ratio} is below 1; "
               "0 switches the rule off")
    if config.sample_lines < config.vocab_size:
        refuse(f"{path}: sample_lines: {config.sample_lines} are too few for a vocab_size of "
               f"{config.vocab_size}: it takes a line a piece, or more")


def _check_bounds(settings: Any, bounds: Dict[str, Tuple[float, float]], where: str) -> None:
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if not least <= value <= most or value == math.inf:  # nan is in no bounds either
            limits = f"from {least} to {most}" if most < MOST_INT else f"{least} or more"
            refuse_type(f"{where}: {name}", value, limits)
