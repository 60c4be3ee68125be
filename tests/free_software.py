"""Tiny Debian packages with real catalogs and help, for the tests of software15's recipe."""

import hashlib
import struct
import subprocess
from pathlib import Path
from typing import Dict, Mapping

Files = Dict[str, bytes]  # path inside a package -> content
HEADER = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n"
LOCALE = "usr/share/locale/{}/LC_MESSAGES/{}.mo"
OFFICE = "usr/lib/libreoffice/program/resource/{}/LC_MESSAGES/{}.mo"


def catalog(messages: Mapping[str, str]) -> bytes:
    """Compile a .mo file. Context is "context\\x04text"; plural forms are joined by "\\x00"."""
    messages = {"": HEADER, **messages}
    entries = sorted((key.encode(), text.encode()) for key, text in messages.items())
    tables, texts = b"", b""
    start = 28 + 16 * len(entries)
    for column in (0, 1):
        for entry in entries:
            tables += struct.pack("<II", len(entry[column]), start + len(texts))
            texts += entry[column] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, start)
    return head + tables + texts


def office_page(paragraphs: Mapping[str, str]) -> bytes:
    """A page of LibreOffice's help with the paragraphs of these ids."""
    lines = [
        f'<p id="{name}" class="paragraph" dir="auto">{text}</p>'
        for name, text in paragraphs.items()
    ]
    return "\n".join(["<!DOCTYPE html>", "<html><body>", *lines, "</body></html>"]).encode()


def gnome_page(body: str) -> bytes:
    """A page of Mallard."""
    return f'<page xmlns="http://projectmallard.org/1.0/" id="page">{body}</page>'.encode()


def make_deb(folder: Path, name: str, files: Files, version: str = "1:2.3-4") -> Path:
    """Build folder/NAME_VERSION_all.deb."""
    tree = folder / f"{name}.tree"
    for path, content in {f"usr/share/doc/{name}/copyright": b"free\n", **files}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        f"Maintainer: Nobody <nobody@example.org>\nDescription: {name} for tests\n"
    )
    deb = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(
        ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(deb)],
        check=True, capture_output=True,
    )
    return deb


def index(debs: Mapping[str, Path]) -> str:
    """The Packages file of a mirror that has these packages at its top."""
    return "".join(
        f"Package: {name}\nVersion: {deb.stem.split('_')[1].replace('%3a', ':')}\n"
        f"Architecture: all\nFilename: {deb.name}\nSize: {deb.stat().st_size}\n"
        f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\nDescription: none\n\n"
        for name, deb in debs.items()
    )
