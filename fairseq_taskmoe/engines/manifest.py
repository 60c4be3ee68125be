"""The manifest of an extracted model: its format, its source, its files and its check sentences.

manifest.json lists the files of its folder with size and SHA-256. The check sentences have the
log-probabilities that the model gave when it was extracted.
"""

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from tqdm import tqdm

from ..errors import refuse
from ..metrics.lang_pairs import languages_of
from ..read_files import read_json
from .formats import STORED_FORMATS, needed_files

MANIFEST = "manifest.json"
README = "README.md"  # not checked: users may edit it
CHUNK = 2**22  # bytes


class Check(NamedTuple):
    """A sentence, a translation, and its log-probability in the full and the extracted model."""

    lang_pair: str
    source: List[str]  # pieces, without tags and end of sentence
    target: List[str]
    full_score: float  # log-probability of target and end of sentence in the full model, in float32
    score: Optional[float]  # in the extracted model; None if it could not be run


class Manifest(NamedTuple):
    """The content of manifest.json."""

    format: str
    directions: Dict[str, Dict[str, List[str]]]  # pair -> tags: {"source": [...], "target": [...]}
    max_source_pieces: int  # without tags and end of sentence
    max_target_pieces: int
    sentencepiece_model: Optional[str]  # file name; None: texts consist of pieces
    parameters: int
    vocabulary: int
    quantization: Optional[str]  # of CTranslate2
    source_checkpoint: Dict[str, Any]  # file, sha256, num_updates, parameters, vocabulary
    versions: Dict[str, str]
    checks: List[Check]
    files: Dict[str, Dict[str, Any]]  # name -> bytes, sha256
    # untrained pair -> trained: false, routed_as: stack -> pair whose experts it uses
    zero_shot: Dict[str, Dict[str, Any]] = {}

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        entries = {**self._asdict(), "checks": [check._asdict() for check in self.checks]}
        text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: str) -> Manifest:
    """Return the manifest of a model folder; refuses a folder that does not match it."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        refuse(f"{folder}: not an extracted model, it has no {MANIFEST}")
    try:
        entries = read_json(path, "manifest of an extracted model")
        entries["checks"] = [Check(**check) for check in entries["checks"]]
        manifest = Manifest(**entries)
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest.files.items()}
        valid = _is_valid(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        refuse(f"{path}: not a manifest of an extracted model ({' '.join(str(problem).split())})")
    if not valid:
        refuse(f"{path}: not a manifest of an extracted model")
    for name, (size, digest) in files.items():
        file = Path(folder) / name
        if not file.is_file():
            refuse(f"{folder} is broken: {name} is missing")
        if file.stat().st_size != size:
            refuse(f"{folder} is broken: {name} has {file.stat().st_size} bytes instead of {size}")
        if sha256(file) != digest:
            refuse(f"{folder} is broken: {name} differs from the extracted file")
    return manifest


def _is_valid(manifest: Manifest) -> bool:
    """Return whether the entries that are needed to open a model exist and have their types."""
    tags = [tags for both in manifest.directions.values() for tags in both.values()]
    sizes = [facts["bytes"] for facts in manifest.files.values()]
    limits = [manifest.max_source_pieces, manifest.max_target_pieces]
    return (
        manifest.format in STORED_FORMATS
        and len(manifest.directions) > 0
        and isinstance(manifest.zero_shot, dict)
        and all(re.fullmatch(r"[^\s-]+-[^\s-]+", pair) and pair.isprintable()
                for pair in manifest.directions)
        and all(set(both) == {"source", "target"} for both in manifest.directions.values())
        and all(isinstance(words, list) and all(isinstance(word, str) for word in words)
                for words in tags)
        and all(type(number) is int and number > 0 for number in limits)
        and all(isinstance(size, int) for size in sizes)
        and all(Path(name).name == name and name.isprintable() for name in manifest.files)
        and all(name in manifest.files for name in _needed_files(manifest))
        and (manifest.quantization or "").isprintable()
    )


def _needed_files(manifest: Manifest) -> List[str]:
    """Return the files that are needed to open a model; each must be listed."""
    needed = list(needed_files(manifest.format, languages_of(manifest.directions)))
    if manifest.sentencepiece_model is not None:
        needed.append(manifest.sentencepiece_model)
    return needed


def describe_files(folder: Path) -> Dict[str, Dict[str, Any]]:
    """Return size and SHA-256 of each file of a model folder."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir()) if file.name not in (MANIFEST, README)
    }


def sha256(path: Path, label: Optional[str] = None) -> str:
    """Return the SHA-256 of a file; with a label, show a progress bar."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with open(path, "rb") as file, tqdm(
        total=size, desc=label, unit="B", unit_scale=True, leave=False,
        disable=None if label else True,
    ) as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def versions(*packages: str) -> Dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
