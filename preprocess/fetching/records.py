"""RAW/checksums.json, which records the finished parts of RAW."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.files import write_atomically
from preprocess.fetching.sources import Part
from preprocess.stages import file_hash


class Records:
    """downloads: {key: {sha256, size}}, parts: {stem: {source, pairs, dropped, files}}."""

    def __init__(self, raw: Path):
        self.raw = raw
        self.path = raw / "checksums.json"
        self.downloads: Dict[str, Dict[str, Any]] = {}
        self.parts: Dict[str, Dict[str, Any]] = {}
        if self.path.exists():
            try:
                content = json.loads(self.path.read_bytes().decode())
            except (ValueError, RecursionError):
                content = None
            if not _is_record(content):
                refuse(f"{self.path} is damaged: delete it to fetch everything again")
            self.downloads, self.parts = content["downloads"], content["parts"]

    def save(self) -> None:
        content = {"downloads": self.downloads, "parts": self.parts}
        write_atomically(self.path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def add_download(self, key: str, path: Path, digest: str) -> None:
        record = {"sha256": digest, "size": path.stat().st_size}
        if self.downloads.get(key) != record:
            self.downloads[key] = record
            self.save()

    def drop_download(self, key: str) -> None:
        self.downloads.pop(key, None)
        self.save()

    def add_part(self, part: Part, pairs: int, dropped: int) -> None:
        self.parts[part.stem] = {
            "source": description(part),
            "pairs": pairs,
            "dropped": dropped,
            "files": {name: file_hash(self.raw / name) for name in part.files},
        }
        self.save()

    def count(self, part: Part) -> str:
        """Return in words how many sentence pairs a part has."""
        record = self.parts[part.stem]
        dropped = record["dropped"]
        empty = f", {dropped} more with an empty side dropped" if dropped else ""
        return f"{record['pairs']} sentence pairs{empty}"

    def done(self, part: Part) -> bool:
        """Return whether a part exists, complete and from its current source.

        A file that was changed since is refused; it is neither used nor overwritten.
        """
        record = self.parts.get(part.stem)
        if record is None or record["source"] != description(part):
            return False
        if not all((self.raw / name).exists() for name in part.files):
            return False
        for name, digest in record["files"].items():
            if file_hash(self.raw / name) != digest:
                refuse(f"{self.raw / name} was changed: delete it to fetch it again")
        return True


def _is_record(content: Any) -> bool:
    """Return whether parsed JSON has the structure that save() writes."""
    if not isinstance(content, dict):
        return False
    tables = [content.get(name) for name in ("downloads", "parts")]
    if not all(isinstance(table, dict) for table in tables):
        return False
    return all(isinstance(one, dict) for table in tables for one in table.values()) and all(
        {"source", "pairs", "dropped", "files"} <= set(part) and isinstance(part["files"], dict)
        for part in tables[1].values()
    )


def description(part: Part) -> Dict[str, Any]:
    return json.loads(json.dumps(asdict(part.source)))
