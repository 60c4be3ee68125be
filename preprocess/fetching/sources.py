"""The sources of a corpus: for each pair the training, validation and test data.

A configuration (examples/wmt30/sources.yaml) describes a data set in one of these ways:

    {mtdata: Statmt-europarl-9-ces-eng}         an entry of mtdata's index
    {url: http://..., de: a/x.de, en: a/x.en}   an address, and the file of each language
    {url: http://..., de: 0, en: 1}             ... or its column, in the file named by member
    {by_hand: http://..., file: x.zip, ...}     a file to download by hand, from this page
    {sacrebleu: wmt18, direction: cs-en}        for validation and test sets
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from sacrebleu.dataset import DATASETS

from fairseq_taskmoe.errors import refuse
from preprocess.corpus import EVAL_SPLITS, SPLITS, languages_of
from preprocess.yaml_settings import (
    check_pair,
    mapping_in,
    read_mapping,
    refuse_type,
    refuse_unknown,
)

CHOICES = ("mtdata", "url", "by_hand", "sacrebleu")
DETAILS = ("direction", "file", "member", "separator")


@dataclass(frozen=True)
class Archive:
    """A file to download, and the place of the two languages in it.

    parts: by language, a file of the archive (or a pattern of several, in zip), or a column.
    """

    url: str
    file: str
    kind: str  # "text": a file a language, "tsv": a column a language, "tmx"
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
    if "mtdata" in description:
        return from_index(where, description["mtdata"], languages)
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
    kinds = {type(part) for part in parts.values()}
    if len(kinds) > 1:
        refuse(f"{where}: {parts}: both must be files, or both columns")
    return Archive(
        url=url,
        file=file,
        kind="tsv" if kinds == {int} else "text",
        parts=parts,
        member=description.get("member"),
        separator=description.get("separator", "\t"),
        by_hand="by_hand" in description,
    )


def from_index(where: str, identifier: str, languages: List[str]) -> Archive:
    """Return the archive of an entry of mtdata's index."""
    from preprocess.fetching.mtdata_library import index_entry, three_letters

    entry = index_entry(identifier)
    if entry is None:
        refuse(f"{where}: mtdata's index has no {identifier}")
    names = {three_letters(language): language for language in languages}
    order = [tag.lang for tag in entry.did.langs]
    if set(order) != set(names):
        refuse(f"{where}: {identifier} is of {'-'.join(order)}, not of {'-'.join(languages)}")
    ours = [names[code] for code in order]
    kind = next((kind for kind in ("tmx", "tsv", "txt") if kind in (entry.in_ext or entry.ext)), "")
    members = entry.in_paths or [None]
    if isinstance(entry.url, str):
        if kind == "tmx" and len(members) == 1:
            codes = {code: code for code in ours}
            return Archive(entry.url, entry.filename, "tmx", codes, members[0])
        if kind == "tsv" and len(members) == 1:
            columns = dict(zip(ours, entry.cols or (0, 1), strict=True))
            return Archive(entry.url, entry.filename, "tsv", columns, members[0])
        if kind == "txt" and len(members) == 2:
            files = dict(zip(ours, members, strict=True))
            return Archive(entry.url, entry.filename, "text", files)
    refuse(f"{where}: the layout of {identifier} is not supported")
