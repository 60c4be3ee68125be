"""What has been fetched into RAW: RAW/checksums.json, the one thing that says a part is done."""

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
                refuse(f"{self.path} is damaged: delete it to fetch everything anew")
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
        """Say in words how many sentence pairs a part has."""
        record = self.parts[part.stem]
        dropped = record["dropped"]
        empty = f", {dropped} more with an empty side were left out" if dropped else ""
        return f"{record['pairs']} sentence pairs{empty}"

    def done(self, part: Part) -> bool:
        """Tell whether a part is there, whole and from the source that it now has.

        A file that somebody changed since is refused: it is neither taken for good nor overwritten.
        """
        record = self.parts.get(part.stem)
        if record is None or record["source"] != description(part):
            return False
        if not all((self.raw / name).exists() for name in part.files):
            return False
        for name, digest in record["files"].items():
            if file_hash(self.raw / name) != digest:
                refuse(f"{self.raw / name} has changed since: delete it to fetch it anew")
        return True


def _is_record(content: Any) -> bool:
    """Say whether parsed JSON is as save() writes it."""
    halves = [content.get(name) for name in ("downloads", "parts")] if isinstance(
        content, dict) else []
    if not halves or not all(isinstance(half, dict) for half in halves):
        return False
    return all(isinstance(one, dict) for half in halves for one in half.values()) and all(
        {"source", "pairs", "dropped", "files"} <= set(part) and isinstance(part["files"], dict)
        for part in halves[1].values()
    )


def description(part: Part) -> Dict[str, Any]:
    return json.loads(json.dumps(asdict(part.source)))
