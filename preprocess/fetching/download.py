"""Download archives with mtdata, from where they are or from a mirror, and check what came."""

import shutil
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterable, NoReturn, Optional, Set
from urllib.parse import urlsplit

import requests

from fairseq_taskmoe.errors import refuse
from preprocess.fetching.mtdata_library import download_cache
from preprocess.fetching.records import Records
from preprocess.fetching.sources import Archive
from preprocess.stages import file_hash

Checksums = Dict[str, Dict[str, Any]]  # sha256, size, and for sacreBLEU md5
FIRST_BYTES = {
    ".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".zip": b"PK", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh",
}


class Mirror:
    """Another server with the same files: what is at http://HOST/PATH it has at MIRROR/HOST/PATH.

    What only a person can get it has at MIRROR/by-hand/FILE. Where its files are not the original
    ones, MIRROR/checksums.json says what they are, {"HOST/PATH": {"sha256": .., "md5": ..}}, and
    replaces the checksums of the configuration and of sacreBLEU.
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
            refuse(f"{url}: {reason(error)}")

    def url_of(self, key: str) -> str:
        return f"{self.address}/{place_of(key)}" if self.address else key

    def expected(self, key: str, configured: Checksums) -> Dict[str, Any]:
        """Return the checksums of an archive, where they are known."""
        if self.checksums is None:
            return configured.get(key, {})
        return self.checksums.get(place_of(key), {})


def key_of(archive: Archive) -> str:
    """Return the name of an archive in tables of checksums: its address, or by-hand/FILE."""
    return f"by-hand/{archive.file}" if archive.by_hand else archive.url


def place_of(key: str) -> str:
    """Return where below its address a mirror has an archive."""
    parts = urlsplit(key)
    return f"{parts.hostname}{parts.path}" if parts.scheme else key


class Downloads:
    """The archives below RAW/archives; each is downloaded once and checked in every run."""

    def __init__(self, raw: Path, mirror: Mirror, checksums: Checksums, records: Records):
        self.by_hand = raw / "by-hand"
        self.mirror = mirror
        self.checksums = checksums
        self.records = records
        self.cache = download_cache(raw / "archives")
        self.checked: Dict[str, Path] = {}

    def require_by_hand(self, archives: Iterable[Archive]) -> None:
        """Refuse, in one line, all archives that a person was to bring and that are missing."""
        missing = {
            archive.file: archive.url for archive in archives
            if self.is_brought(archive) and not (self.by_hand / archive.file).is_file()
        }
        if missing:
            places = ", ".join(f"{file} (from {url})" for file, url in missing.items())
            refuse(f"{self.by_hand} lacks what only a person can get: {places}")

    def is_brought(self, archive: Archive) -> bool:
        """Say whether a person brings the archive: mirrors have those too."""
        return archive.by_hand and not self.mirror.address

    def get(self, archive: Archive) -> Path:
        """Return an archive's local path, refusing what cannot be had or is not the right thing."""
        key = key_of(archive)
        if key not in self.checked:
            if self.is_brought(archive):
                path, shown = self.by_hand / archive.file, str(self.by_hand / archive.file)
            else:
                shown = self.mirror.url_of(key)
                path = self.download(shown, archive)
            digest = file_hash(path)
            problem = self.problem_of(path, key, digest)
            if problem:
                self.remove(path)
                refuse(f"{shown}: {problem}")
            self.records.add_download(key, path, digest)
            self.checked[key] = path
        return self.checked[key]

    def download(self, url: str, archive: Archive) -> Path:
        path = self.cache.get_local_path(url, filename=archive.file, fix_missing=False)
        try:
            return self.cache.get_local_path(url, filename=archive.file)
        except (AssertionError, OSError) as error:
            self.remove(path)
            # requests' errors are OSErrors too; what is none of them comes from the disk
            network = isinstance(error, (AssertionError, requests.RequestException))
            refuse(f"{url if network else path}: {reason(error)}")

    def problem_of(self, path: Path, key: str, digest: str) -> Optional[str]:
        """Say what is wrong with a downloaded file."""
        start = path.open("rb").read(512)
        if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "the answer is a web page, not the archive"
        if path.suffix == ".tar" and not tarfile.is_tarfile(path):
            return "no tar archive"
        if not start.startswith(FIRST_BYTES.get(path.suffix, b"")):
            return f"no {path.suffix[1:]} file"
        size = path.stat().st_size
        expected = self.mirror.expected(key, self.checksums)
        if expected.get("size", size) != size:
            return f"{size} bytes came, {expected['size']} were expected"
        if expected.get("sha256", digest) != digest:
            return f"wrong checksum: sha256 {digest}, expected {expected['sha256']}"
        earlier = self.records.downloads.get(key, {"sha256": digest})["sha256"]
        if earlier != digest:
            return f"wrong checksum: sha256 {digest}, at the first download {earlier}"
        return None

    def refuse_damaged(self, archive: Archive, problem: str) -> NoReturn:
        """Refuse an archive that turned out to be unreadable, so that the next run gets it anew."""
        key = key_of(archive)
        path = self.checked.pop(key)
        self.records.drop_download(key)
        self.remove(path)
        shown = path if self.by_hand in path.parents else self.mirror.url_of(key)
        refuse(f"{shown}: {problem}")

    def remove(self, path: Path) -> None:
        """Remove a download that is of no use, with what was unpacked from it."""
        if self.by_hand not in path.parents:  # what a person brought stays
            shutil.rmtree(path.parent, ignore_errors=True)


class SizesByHead:
    """Asks servers how large a file is, and a server that cannot be reached only once."""

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


def reason(error: Exception) -> str:
    """Say in a few words why a download failed."""
    if isinstance(error, AssertionError):  # mtdata's way to say that the status is not 200
        return f"the server answered with status {error}"
    if isinstance(error, requests.HTTPError):
        return f"the server answered with status {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return getattr(error, "strerror", None) or " ".join(str(error).split())
