"""What a corpus is made of: for each pair the data sets to train on, the dev and the test set.

A configuration (examples/wmt30/sources.yaml) names a data set in one of these ways:

    {mtdata: Statmt-europarl-9-ces-eng}         an entry of mtdata's index
    {url: http://..., de: a/x.de, en: a/x.en}   another address, and the file of each language
    {url: http://..., de: 0, en: 1}             ... or its column, in the file that member names
    {by_hand: http://..., file: x.zip, ...}     what only a person can get, from this page
    {sacrebleu: wmt18, direction: cs-en}        for dev and test sets
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import yaml
from sacrebleu.dataset import DATASETS

from fairseq_taskmoe.errors import refuse

SPLITS = ("train", "valid", "test")
CHOICES = ("mtdata", "url", "by_hand", "sacrebleu")


@dataclass(frozen=True)
class Archive:
    """A file to download, and where in it the two languages are.

    parts: by language, a file of the archive (may be a pattern of several, for zip), or a column.
    """

    url: str
    file: str
    kind: str  # "text": a file a language, "tsv": a column a language, "tmx"
    parts: Mapping[str, Union[str, int]]
    member: Optional[str] = None  # or a pattern: where in an archive both languages are in one file
    separator: str = "\t"
    by_hand: bool = False


@dataclass(frozen=True)
class HeldOut:
    """A dev or test set that sacreBLEU knows, and the direction in which it was made."""

    name: str
    direction: str


class Part(NamedTuple):
    """What becomes two files, RAW/STEM.LANGUAGE for each of the pair's two languages."""

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
        first, second = self.pair.split("-")
        return f"{self.stem}.{first}", f"{self.stem}.{second}"


class Sources(NamedTuple):
    parts: List[Part]
    checksums: Dict[str, Dict[str, Any]]  # by address: size in bytes, sha256
    licences: Dict[str, str]  # by name of a data set
    expected: Dict[str, Dict[str, int]]  # by pair: train, valid and test, the published counts


def read_sources(path: Path, without: Tuple[str, ...] = ()) -> Sources:
    """Read a configuration; data sets named in without are left out of the training data."""
    config = read_yaml(path)
    parts = []
    for pair, splits in config["pairs"].items():
        if len(pair.split("-")) != 2 or not isinstance(splits, dict):
            refuse(f"{path}: pairs: {pair}: expected a pair such as en-de with its data sets")
        for name, description in (splits.get("train") or {}).items():
            if name not in without:
                parts.append(Part("train", pair, name, source_of(path, pair, name, description)))
        for split in ("valid", "test"):
            if split not in splits:
                refuse(f"{path}: pairs: {pair} has no {split}")
            parts.append(Part(split, pair, split, source_of(path, pair, split, splits[split])))
    unknown = set(without) - {name for splits in config["pairs"].values()
                              for name in (splits.get("train") or {})}
    if unknown:
        refuse(f"--without {min(unknown)}: no data set of {path}")
    expected = {pair: splits.get("paper", {}) for pair, splits in config["pairs"].items()}
    return Sources(parts, config.get("checksums", {}), config.get("licences", {}), expected)


def read_yaml(path: Path) -> Dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse(f"{path}: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        refuse(f"{path}: no YAML: {' '.join(str(error).split())}")
    if not isinstance(config, dict) or not isinstance(config.get("pairs"), dict):
        refuse(f"{path}: expected the key pairs, as in examples/wmt30/sources.yaml")
    return config


def source_of(
    path: Path, pair: str, name: str, description: Dict[str, Any]
) -> Union[Archive, HeldOut]:
    """Turn one data set of the configuration into what is to be downloaded."""
    where = f"{path}: {pair}: {name}"
    if not isinstance(description, dict) or sum(key in description for key in CHOICES) != 1:
        refuse(f"{where}: expected one of the keys {', '.join(CHOICES)}")
    languages = pair.split("-")
    if "sacrebleu" in description:
        direction = description.get("direction", "")
        if sorted(direction.split("-")) != sorted(languages):
            refuse(f"{where}: direction {direction!r} is none of {pair}")
        name = description["sacrebleu"]
        if name not in DATASETS or direction not in DATASETS[name].langpairs:
            refuse(f"{where}: sacreBLEU has no {direction} of {name}")
        return HeldOut(name, direction)
    if "mtdata" in description:
        return from_index(where, description["mtdata"], languages)
    missing = [language for language in languages if language not in description]
    if missing:
        refuse(f"{where}: the language {missing[0]} is missing")
    url = description.get("url") or description["by_hand"]
    parts = {language: description[language] for language in languages}
    columns = all(isinstance(part, int) for part in parts.values())
    return Archive(
        url=url,
        file=description.get("file") or url.rsplit("/", 1)[-1],
        kind="tsv" if columns else "text",
        parts=parts,
        member=description.get("member"),
        separator=description.get("separator", "\t"),
        by_hand="by_hand" in description,
    )


def from_index(where: str, identifier: str, languages: List[str]) -> Archive:
    """Look a data set up in mtdata's index."""
    from preprocess.mtdata_library import index_entry, three_letters

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
