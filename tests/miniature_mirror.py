"""A miniature mirror on loopback: a small archive for every address of a configuration.

    python tests/miniature_mirror.py examples/wmt30/sources.yaml --folder MIRROR --port 8765
    python examples/wmt30/prepare.py --mirror http://127.0.0.1:8765 ...

The text is real: sentences of LibreOffice's interface, in all 16 languages (tests/corpora).
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import lzma
import random
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # preprocess is not installed

from preprocess.fetching.download import key_of, mirror_path  # noqa: E402
from preprocess.fetching.held_out import DATASETS, addresses  # noqa: E402
from preprocess.fetching.sources import Archive, HeldOut, Part, read_sources  # noqa: E402

TEXT = ROOT / "tests" / "corpora" / "interface-15.tsv.xz"
NUM_HELD_OUT = 100  # rows that no training set has
Rows = List[Dict[str, str]]


def read_rows() -> Rows:
    with lzma.open(TEXT, "rt", encoding="utf-8", newline="\n") as stream:
        header, *lines = (line.rstrip("\n").split("\t") for line in stream)
    return [dict(zip(header, line, strict=True)) for line in lines]


def rows_of(rows: Rows, split: str, name: str, size: int) -> Rows:
    """Choose a data set's sentences: the same ones in every language, so that pairs share files."""
    pool = rows[NUM_HELD_OUT:] if split == "train" else rows[:NUM_HELD_OUT]
    return random.Random(name).sample(pool, min(size, len(pool)))


def build(config: Path, folder: Path, train_size: int = 120, held_out_size: int = 25) -> None:
    """Fill folder with archives, and with checksums.json that says what they are."""
    rows, checksums = read_rows(), {}
    archives: Dict[str, Dict[str, bytes]] = {}
    for part in read_sources(config).parts:
        if isinstance(part.source, Archive):
            place = mirror_path(key_of(part.source))
            size = train_size if part.split == "train" else held_out_size
            members = archive_members(part, part.source, rows_of(rows, part.split, place, size))
        else:
            place = mirror_path(addresses(DATASETS[part.source.name])[0])
            chosen = rows_of(rows, part.split, part.source.name, held_out_size)
            members = benchmark_members(part.source, chosen)
        archives.setdefault(place, {}).update(members)
    for place, members in archives.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        content = pack(path.name, members)
        path.write_bytes(content)
        checksums[place] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "md5": hashlib.md5(content).hexdigest(),  # sacreBLEU's
        }
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=1))


def archive_members(part: Part, archive: Archive, rows: Rows) -> Dict[str, bytes]:
    """Make the files that an archive has of one pair."""
    languages = part.pair.split("-")
    if archive.kind == "text":
        sides = split_files(rows, str(archive.parts[languages[0]]), archive.by_hand)
        return {
            concrete(str(archive.parts[language]), number): text_of(side, language)
            for number, side in enumerate(sides, start=1)
            for language in languages
        }
    if archive.kind == "tmx":
        return {concrete(archive.member or "", 1): tmx_of(rows, languages)}
    sides = split_files(rows, archive.member or "", True)
    return {
        concrete(archive.member or "", number): table_of(side, archive)
        for number, side in enumerate(sides, start=1)
    }


def split_files(rows: Rows, pattern: str, may_be_several: bool) -> List[Rows]:
    """Where a pattern may stand for several files, there are two."""
    if "*" not in pattern or not may_be_several:
        return [rows]
    middle = len(rows) // 2
    return [rows[:middle], rows[middle:]]


def concrete(pattern: str, number: int) -> str:
    return pattern.replace("*", f"part{number}").replace("[hn]", "n")


def text_of(rows: Rows, language: str) -> bytes:
    return "".join(row[language] + "\n" for row in rows).encode()


def table_of(rows: Rows, archive: Archive) -> bytes:
    width = 1 + max(int(column) for column in archive.parts.values())
    lines = []
    for row in rows:
        cells = ["-"] * width
        for language, column in archive.parts.items():
            cells[int(column)] = row[language]
        lines.append(archive.separator.join(cells) + "\n")
    lines.insert(len(lines) // 2, archive.separator * (width - 1) + "\n")  # as between documents
    return "".join(lines).encode()


def tmx_of(rows: Rows, languages: Sequence[str]) -> bytes:
    units = "".join(
        "<tu>" + "".join(
            f'<tuv xml:lang="{language}"><seg>{escape(row[language])}</seg></tuv>'
            for language in languages
        ) + "</tu>\n"
        for row in rows
    )
    return f'<?xml version="1.0"?>\n<tmx version="1.4"><body>\n{units}</body></tmx>\n'.encode()


def benchmark_members(held_out: HeldOut, rows: Rows) -> Dict[str, bytes]:
    """Make the SGML files, source first, that sacreBLEU looks for."""
    paths = DATASETS[held_out.name].langpairs[held_out.direction]
    source, target = held_out.direction.split("-")
    members = {}
    for language, path in zip((source, target), paths, strict=True):
        segments = "".join(
            f'<seg id="{number}">{row[language]}</seg>\n' for number, row in enumerate(rows, 1)
        )
        members[path] = (
            f'<srcset setid="x" srclang="any">\n<doc docid="d" genre="ui" origlang="en">\n'
            f"{segments}</doc>\n</srcset>\n"
        ).encode()
    return members


def pack(name: str, members: Dict[str, bytes]) -> bytes:
    """Make an archive of the kind that its name says; equal members give equal bytes."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        return buffer.getvalue()
    if not name.endswith((".tar", ".tgz", ".tar.gz")):
        (content,) = members.values()
        return gzip.compress(content, mtime=0)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members.items():
            content = gzip.compress(content, mtime=0) if member.endswith(".gz") else content
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    tar = buffer.getvalue()
    return tar if name.endswith(".tar") else gzip.compress(tar, mtime=0)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; faults says what goes wrong with the paths that end so."""

    def __init__(self, *args: Any, faults: Dict[str, str], directory: str):
        self.faults = faults
        super().__init__(*args, directory=directory)

    def do_GET(self) -> None:
        fault = next((what for path, what in self.faults.items() if self.path.endswith(path)), None)
        if fault is None:
            super().do_GET()
        elif fault.isdigit():
            self.send_error(int(fault))
        elif fault == "web page":
            self.answer(b"<!DOCTYPE html>\n<html><body>This service is down.</body></html>\n")
        else:
            content = Path(self.translate_path(self.path)).read_bytes()
            if fault == "broken off":
                self.answer(content[: len(content) // 2], announced=len(content))
            else:
                self.answer(content[: len(content) // 2])

    def answer(self, content: bytes, announced: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(announced or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path, port: int = 0, faults: Optional[Dict[str, str]] = None) -> Iterator[str]:
    """Serve folder on loopback, at a free port by default; give its address."""
    handler = functools.partial(
        Handler, faults={} if faults is None else faults, directory=str(folder)
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        # the interval is how long shutdown() waits
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="folder to fill and to serve")
    parser.add_argument("--port", type=int, default=8765)
    args = parser.parse_args()
    build(args.config, args.folder)
    with serve(args.folder, args.port) as address:
        print(f"serving {args.folder} at {address}; stop with Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
