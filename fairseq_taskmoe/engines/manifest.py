"""The manifest of an extracted model: what it is, where it comes from, and what it should say.

manifest.json stands beside the files that it lists with size and SHA-256. Its check sentences have
the log-probabilities that the model had where it was cut out.
"""

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from tqdm import tqdm

from ..errors import refuse
from ..read_files import read_json
from .formats import STORED_FORMATS, needed_files

MANIFEST = "manifest.json"
README = "README.md"  # whoever has the model may write into it
CHUNK = 2**22  # bytes


class Check(NamedTuple):
    """A sentence, a translation, and what the two models say of it."""

    lang_pair: str
    source: List[str]  # pieces, without tags and without the end of the sentence
    target: List[str]
    full_score: float  # log-probability of the target and its end, in the model cut into, float32
    score: Optional[float]  # of the extracted model; None where it could not be run


class Manifest(NamedTuple):
    """What a model folder says of itself."""

    format: str
    directions: Dict[str, Dict[str, List[str]]]  # pair -> tags: {"source": [...], "target": [...]}
    max_source_pieces: int  # without tags and without the end of the sentence
    max_target_pieces: int
    sentencepiece_model: Optional[str]  # name of a file; without one, texts are pieces
    parameters: int
    vocabulary: int
    quantization: Optional[str]  # with CTranslate2
    source_checkpoint: Dict[str, Any]  # file, sha256, num_updates, parameters, vocabulary
    versions: Dict[str, str]
    checks: List[Check]
    files: Dict[str, Dict[str, Any]]  # name -> bytes, sha256
    # pair that was never trained -> trained: false, routed_as: stack -> pair whose experts it takes
    zero_shot: Dict[str, Dict[str, Any]] = {}

    def write(self, folder: Path) -> None:
        """Write the manifest of a folder whose files are all there."""
        entries = {**self._asdict(), "checks": [check._asdict() for check in self.checks]}
        text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: str) -> Manifest:
    """Return the manifest of a model folder, refusing a folder that is not as it says."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        refuse(f"{folder}: no extracted model, it has no {MANIFEST}")
    try:
        entries = read_json(path, "manifest of an extracted model")
        entries["checks"] = [Check(**check) for check in entries["checks"]]
        manifest = Manifest(**entries)
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest.files.items()}
        usable = _is_usable(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        refuse(f"{path}: no manifest of an extracted model ({' '.join(str(problem).split())})")
    if not usable:
        refuse(f"{path}: no manifest of an extracted model")
    for name, (size, digest) in files.items():
        file = Path(folder) / name
        if not file.is_file():
            refuse(f"{folder} is broken: {name} is missing")
        if file.stat().st_size != size:
            refuse(f"{folder} is broken: {name} has {file.stat().st_size} bytes instead of {size}")
        if sha256(file) != digest:
            refuse(f"{folder} is broken: {name} is not what was extracted")
    return manifest


def _is_usable(manifest: Manifest) -> bool:
    """Say whether all that is needed to open a model is there, and of its type."""
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
    """Return the files that opening a model reads: each has to be one that was extracted."""
    languages = sorted({lang for pair in manifest.directions for lang in pair.split("-")})
    needed = list(needed_files(manifest.format, languages))
    if manifest.sentencepiece_model is not None:
        needed.append(manifest.sentencepiece_model)
    return needed


def describe_files(folder: Path) -> Dict[str, Dict[str, Any]]:
    """Return size and SHA-256 of each file of a folder that makes the model."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir()) if file.name not in (MANIFEST, README)
    }


def sha256(path: Path, said: Optional[str] = None) -> str:
    """Return the SHA-256 of a file, with a progress bar where it has a name."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with open(path, "rb") as file, tqdm(
        total=size, desc=said, unit="B", unit_scale=True, leave=False,
        disable=None if said else True,
    ) as bar:
        read: Callable[[], bytes] = lambda: file.read(CHUNK)  # noqa: E731
        for chunk in iter(read, b""):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def versions(*packages: str) -> Dict[str, str]:
    """Return the versions of packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
