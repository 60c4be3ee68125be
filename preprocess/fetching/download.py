"""Download archives from their servers or a mirror, and check them."""

import tarfile
from functools import cached_property
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, NoReturn, Optional, Set
from urllib.error import HTTPError
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from fairseq_taskmoe.errors import refuse

from ..stages import file_hash
from ..text_files import atomic_output
from .sources import Archive

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
Checksums = Dict[str, Dict[str, Any]]  # by archive: sha256, size, and for sacreBLEU md5
MAGIC_BYTES = {
    ".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".zip": b"PK", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh",
}


class Mirror:
    """A server with copies: the file of http://HOST/PATH is at MIRROR/HOST/PATH.

    Files that others have to download by hand are at MIRROR/by-hand/FILE. If files differ from the
    originals, MIRROR/checksums.json has {"HOST/PATH": {"sha256": .., "md5": ..}}; this replaces the
    checksums of the configuration and of sacreBLEU.
    """

    def __init__(self, address: Optional[str]):
        self.address = address.rstrip("/") if address else None

    @cached_property
    def checksums(self) -> Optional[Checksums]:
        if not self.address:
            return None
        url = f"{self.address}/checksums.json"
        try:
            answer = requests.get(url, timeout=30)
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as error:
            refuse(f"{url}: {failure_reason(error)}")

    def url_of(self, key: str) -> str:
        return f"{self.address}/{mirror_path(key)}" if self.address else key

    def expected(self, key: str, configured: Checksums) -> Dict[str, Any]:
        """Return the known checksums of an archive."""
        if self.checksums is None:
            return configured.get(key, {})
        return self.checksums.get(mirror_path(key), {})


def key_of(archive: Archive) -> str:
    """Return the key of an archive in tables of checksums: its address, or by-hand/FILE."""
    return f"by-hand/{archive.file}" if archive.by_hand else archive.url


def mirror_path(key: str) -> str:
    """Return the path of an archive below a mirror's address."""
    parts = urlsplit(key)
    return f"{parts.hostname}{parts.path}" if parts.scheme else key


class Downloads:
    """The archives in RAW/archives/HOST/PATH; each is downloaded once, checked in every run."""

    def __init__(self, raw: Path, mirror: Mirror, checksums: Checksums):
        self.by_hand = raw / "by-hand"
        self.mirror = mirror
        self.checksums = checksums
        self.folder = raw / "archives"
        self.checked: Dict[str, Path] = {}

    def require_by_hand(self, archives: Iterable[Archive]) -> None:
        """Refuse, in one line, all missing archives that the user has to provide."""
        missing = {
            archive.file: archive.url for archive in archives
            if self.is_manual(archive) and not (self.by_hand / archive.file).is_file()
        }
        if missing:
            places = ", ".join(f"{file} (from {url})" for file, url in missing.items())
            refuse(f"{self.by_hand} lacks files that have to be downloaded by hand: {places}")

    def is_manual(self, archive: Archive) -> bool:
        """Return whether the user has to provide the archive; a mirror has those too."""
        return archive.by_hand and not self.mirror.address

    def get(self, archive: Archive) -> Path:
        """Return an archive's local path; refuses a failed download and a wrong file."""
        key = key_of(archive)
        if key not in self.checked:
            if self.is_manual(archive):
                path, shown = self.by_hand / archive.file, str(self.by_hand / archive.file)
            else:
                path, shown = self.folder / mirror_path(key), self.mirror.url_of(key)
                if not path.exists():
                    with atomic_output(path) as stream:
                        stream.writelines(downloaded(shown))
            problem = self.problem_of(path, key)
            if problem:
                self.remove(path)
                refuse(f"{shown}: {problem}")
            self.checked[key] = path
        return self.checked[key]

    def problem_of(self, path: Path, key: str) -> Optional[str]:
        """Return what is wrong with a downloaded file, or None."""
        start = path.open("rb").read(8)
        if is_web_page(path):
            return "the answer is a web page, not the archive"
        if path.suffix == ".tar" and not tarfile.is_tarfile(path):
            return "not a tar archive"
        if not start.startswith(MAGIC_BYTES.get(path.suffix, b"")):
            return f"not a {path.suffix[1:]} file"
        size = path.stat().st_size
        expected = self.mirror.expected(key, self.checksums)
        if expected.get("size", size) != size:
            return f"{size} bytes received, {expected['size']} expected"
        if "sha256" in expected and (digest := file_hash(path)) != expected["sha256"]:
            return f"wrong checksum: sha256 {digest}, expected {expected['sha256']}"
        return None

    def refuse_damaged(self, archive: Archive, problem: str) -> NoReturn:
        """Refuse an unreadable archive, so that the next run downloads it again."""
        key = key_of(archive)
        path = self.checked.pop(key)
        self.remove(path)
        shown = path if self.by_hand in path.parents else self.mirror.url_of(key)
        refuse(f"{shown}: {problem}")

    def remove(self, path: Path) -> None:
        """Remove a bad download, not a file of the user."""
        if self.by_hand not in path.parents:
            path.unlink(missing_ok=True)


def downloaded(url: str) -> Iterator[bytes]:
    """Yield the blocks of a file; refuses one that cannot be downloaded to its end."""
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            size = int(answer.headers.get("Content-Length", 0)) or None
            name = url.rpartition("/")[2]
            with tqdm(None, name, size, False, unit="B", unit_scale=True, disable=None) as bar:
                for block in answer.iter_content(BLOCK_BYTES):
                    bar.update(len(block))
                    yield block
    except requests.RequestException as error:
        refuse(f"{url}: {failure_reason(error)}")


class SizesByHead:
    """Asks servers for the sizes of files; asks an unreachable server only once."""

    def __init__(self) -> None:
        self.unreachable: Set[Optional[str]] = set()

    def size(self, url: str) -> Optional[int]:
        host = urlsplit(url).hostname
        if host in self.unreachable:
            return None
        try:
            answer = requests.head(url, timeout=10, allow_redirects=True)
        except requests.RequestException:
            self.unreachable.add(host)
            return None
        length = answer.headers.get("Content-Length")
        return int(length) if answer.ok and length else None


def is_web_page(path: Path) -> bool:
    """Return whether a file starts as HTML does: some servers send a page instead of status 404."""
    start = path.open("rb").read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def failure_reason(error: Exception) -> str:
    """Return in a few words why a download by requests or sacreBLEU (urllib) failed."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered with status {error.response.status_code}"
    if isinstance(error, HTTPError):
        return f"the server answered with status {error.code}"
    if isinstance(error, (requests.exceptions.ChunkedEncodingError, IncompleteRead)):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    text = str(getattr(error, "reason", error))  # the reason of a URLError
    return getattr(error, "strerror", None) or " ".join(text.split())
