"""The sources of a corpus: for each pair the training, validation and test data.

A configuration (examples/wmt30/sources.yaml) describes a data set in one of these ways:

    {url: http://..., de: a/x.de, en: a/x.en}   an address, and the file of each language
    {url: http://..., de: 0, en: 1}             ... or its column, in the file named by member
    {url: http://x.tmx.gz, de: de, en: en}      ... or its code in a TMX file
    {by_hand: http://..., file: x.zip, ...}     a file to download by hand, from this page
    {sacrebleu: wmt18, direction: cs-en}        for validation and test sets
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from sacrebleu.dataset import DATASETS

from fairseq_taskmoe.errors import refuse

from ..corpus import EVAL_SPLITS, SPLITS, languages_of
from ..yaml_settings import (
    check_pair,
    mapping_in,
    read_mapping,
    refuse_type,
    refuse_unknown,
)

CHOICES = ("url", "by_hand", "sacrebleu")
DETAILS = ("direction", "file", "member", "separator")


@dataclass(frozen=True)
class Archive:
    """A file to download, and the place of the two languages in it.

    parts: by language, a file of the archive (in zip, or a pattern of several), a column, or a
    code in TMX.
    """

    url: str
    file: str
    kind: str  # "text": a file for each language; "tsv": a column; "tmx"
    parts: Mapping[str, Union[str, int]]
    member: Optional[str] = None  # the file (or a pattern) of an archive with both languages
    separator: str = "\t"
    by_hand: bool = False


@dataclass(frozen=True)
class HeldOut:
    """A validation or test set of sacreBLEU, and the direction that it was made for."""

    name: str
    direction: str


class Part(NamedTuple):
    """A data set of a pair, which becomes the two files RAW/STEM.LANGUAGE."""

    split: str
    pair: str
    dataset: str
    source: Union[Archive, HeldOut]

    @property
    def stem(self) -> str:
        if self.split == "train":
            return f"train/{self.pair}/{self.dataset}"
        return f"{self.split}/{self.pair}"

    @property
    def files(self) -> Tuple[str, str]:
        first, second = languages_of(self.pair)
        return f"{self.stem}.{first}", f"{self.stem}.{second}"


class Sources(NamedTuple):
    parts: List[Part]
    checksums: Dict[str, Dict[str, Any]]  # by address: size in bytes, sha256
    licences: Dict[str, str]  # by name of a data set
    expected: Dict[str, Dict[str, int]]  # by pair: train, valid and test, the published counts


def read_sources(path: Path, without: Tuple[str, ...] = ()) -> Sources:
    """Read a configuration; data sets named in without are left out of the training data."""
    config = read_mapping(path, "the key pairs, as in examples/wmt30/sources.yaml")
    pairs = mapping_in(config, "pairs", str(path))
    if not pairs:
        refuse(f"{path}: expected the key pairs, as in examples/wmt30/sources.yaml")
    parts, named = [], set()
    for pair, splits in pairs.items():
        where = f"{path}: pairs: {pair}"
        expected = f"{pair}: expected a pair such as en-de with its data sets"
        check_pair(pair, f"{path}: pairs", expected)
        if not isinstance(splits, dict):
            refuse(f"{path}: pairs: {expected}")
        refuse_unknown(where, splits, (*SPLITS, "paper"))
        for name, description in mapping_in(splits, "train", where).items():
            if "/" in name:
                refuse_type(f"{where}: train", name, "the name of a data set")
            named.add(name)
            if name not in without:
                parts.append(Part("train", pair, name, source_of(path, pair, name, description)))
        for split in EVAL_SPLITS:
            if split not in splits:
                refuse(f"{path}: pairs: {pair} has no {split}")
            parts.append(Part(split, pair, split, source_of(path, pair, split, splits[split])))
    unknown = set(without) - named
    if unknown:
        refuse(f"--without {min(unknown)}: no data set of {path}")
    return Sources(
        parts,
        checksums_in(config, path),
        mapping_in(config, "licences", str(path)),
        {pair: counts_in(splits, f"{path}: pairs: {pair}") for pair, splits in pairs.items()},
    )


def counts_in(splits: Dict[str, Any], where: str) -> Dict[str, int]:
    """Return the published counts of a pair."""
    counts = mapping_in(splits, "paper", where)
    for split in SPLITS:
        if type(counts.get(split, 1)) is not int or counts.get(split, 1) < 1:
            refuse_type(f"{where}: paper: {split}", counts[split], "a number of lines")
    return counts


def checksums_in(config: Dict[str, Any], path: Path) -> Dict[str, Dict[str, Any]]:
    checksums = mapping_in(config, "checksums", str(path))
    for address, known in checksums.items():
        where = f"{path}: checksums: {address}"
        if not isinstance(known, dict):
            refuse_type(where, known, "size and sha256")
        refuse_unknown(where, known, ("size", "sha256"))
        for key, kind in (("size", int), ("sha256", str)):
            if type(known.get(key, kind())) is not kind:
                refuse_type(f"{where}: {key}", known[key], f"of type {kind.__name__}")
    return checksums


def source_of(path: Path, pair: str, name: str, description: Any) -> Union[Archive, HeldOut]:
    """Return the source of a data set of the configuration."""
    where = f"{path}: {pair}: {name}"
    if not isinstance(description, dict) or sum(key in description for key in CHOICES) != 1:
        refuse(f"{where}: expected one of the keys {', '.join(CHOICES)}")
    languages = pair.split("-")
    refuse_unknown(where, description, (*CHOICES, *DETAILS, *languages))
    for key in (*CHOICES, *DETAILS):
        text = description.get(key, "-")
        if not isinstance(text, str) or not text:
            refuse_type(f"{where}: {key}", text, "a text")
    if "sacrebleu" in description:
        return held_out_of(where, pair, description["sacrebleu"], description.get("direction", ""))
    return archive_of(where, languages, description)


def held_out_of(where: str, pair: str, name: str, direction: str) -> HeldOut:
    if sorted(direction.split("-")) != sorted(pair.split("-")):
        refuse(f"{where}: direction {direction!r} is none of {pair}")
    if name not in DATASETS or direction not in DATASETS[name].langpairs:
        refuse(f"{where}: sacreBLEU has no {direction} of {name}")
    return HeldOut(name, direction)


def archive_of(where: str, languages: List[str], description: Dict[str, Any]) -> Archive:
    """Return the archive of a description with an address."""
    url = description.get("url") or description["by_hand"]
    if not url.startswith(("http://", "https://")):
        refuse_type(where, url, "an address that begins with http:// or https://")
    file = description.get("file") or url.rsplit("/", 1)[-1]
    if not file or "/" in file:
        refuse(f"{where}: {url}: add the key file, with the archive's name")
    for language in languages:
        if language not in description:
            refuse(f"{where}: the language {language} is missing")
        part = description[language]
        if not (type(part) is int and part >= 0 or isinstance(part, str) and part):
            refuse_type(f"{where}: {language}", part, "a file or a column from 0")
    parts = {language: description[language] for language in languages}
    types = {type(part) for part in parts.values()}
    if len(types) > 1:
        refuse(f"{where}: {parts}: both must be files, or both columns")
    member = description.get("member")
    kind = "tsv" if types == {int} else "tmx" if ".tmx" in (member or file) else "text"
    return Archive(
        url=url,
        file=file,
        kind=kind,
        parts=parts,
        member=member,
        separator=description.get("separator", "\t"),
        by_hand="by_hand" in description,
    )
