"""Ways in which a file is not what it should be, and commands run in this process on such files."""

import json
import random
import sys
import zipfile
from contextlib import chdir
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import torch
import yaml
from console import PLUGIN

from fairseq_taskmoe import cli
from fairseq_taskmoe.errors import Refusal

Damage = Callable[[Path, random.Random], None]


def replaced(make: Callable[[bytes, random.Random], bytes]) -> Damage:
    """Return the damage that gives a file other content."""

    def damage(path: Path, draw: random.Random) -> None:
        path.write_bytes(make(path.read_bytes(), draw))

    return damage


def changed(content: bytes, place: int, draw: random.Random) -> bytes:
    """Return content with one byte changed."""
    if not content:
        return b"\x80"
    place %= len(content)
    return content[:place] + bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1:]


def cut(share: float) -> Damage:
    return replaced(lambda content, _: content[: int(share * len(content))])


def other_kind(write: Callable[[Path], Any]) -> Damage:
    """Return the damage that puts a file of another kind in its place."""

    def damage(path: Path, draw: random.Random) -> None:
        path.unlink()
        write(path)

    return damage


def become_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


OTHERS: List[Any] = [None, 17, -1.5, "other", ["other"], {"other": 1}, True]


def edited(change: Callable[[Any, Any, random.Random], None]) -> Damage:
    """Return the damage that changes an entry of what a checkpoint, JSON or YAML holds."""

    def damage(path: Path, draw: random.Random) -> None:
        load, save = EDITORS.get(path.suffix, EDITORS["others"])
        content = load(path)
        holder, key = draw.choice(list(entries(content)))
        change(holder, key, draw)
        path.unlink()
        save(content, path)

    return damage


def entries(content: Any, depth: int = 0) -> Iterator[Tuple[Any, Any]]:
    """Yield the places of all values, of long lists and of weights the first ones."""
    if isinstance(content, dict):
        keys = list(content)
    else:
        keys = list(range(len(content))) if isinstance(content, list) else []
    for key in keys[:40]:
        # those that hold others more often: they are few
        yield from [(content, key)] * (4 if depth < 2 else 1)
        yield from entries(content[key], depth + 1)


def drop(holder: Any, key: Any, draw: random.Random) -> None:
    del holder[key]


def exchange(holder: Any, key: Any, draw: random.Random) -> None:
    holder[key] = draw.choice([x for x in OTHERS if type(x) is not type(holder[key])])


def load_bytes(path: Path) -> Any:
    return {"content": path.read_bytes()}


def save_bytes(content: Any, path: Path) -> None:
    path.write_bytes(str(content.get("content")).encode())


EDITORS: Dict[str, Tuple[Callable[[Path], Any], Callable[[Any, Path], Any]]] = {
    ".pt": (lambda path: torch.load(path, weights_only=True), torch.save),
    ".json": (
        lambda path: json.loads(path.read_text("utf-8")),
        lambda content, path: write_json(path, content),
    ),
    ".yaml": (
        lambda path: yaml.safe_load(path.read_text("utf-8")),
        lambda content, path: path.write_text(yaml.safe_dump(content)),
    ),
    "others": (load_bytes, save_bytes),
}


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"no pickle")


def write_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, other=np.zeros(3))


DAMAGES: Dict[str, Damage] = {
    "empty": replaced(lambda content, _: b""),
    "one byte": replaced(lambda content, _: content[:1]),
    "25 bytes": replaced(lambda content, _: content[:25]),
    "47 bytes": replaced(lambda content, _: content[:47]),
    "a quarter": cut(0.25),
    "half": cut(0.5),
    "all but a byte": replaced(lambda content, _: content[:-1]),
    "first byte": replaced(lambda content, draw: changed(content, 0, draw)),
    "last byte": replaced(lambda content, draw: changed(content, -1, draw)),
    "header": replaced(lambda content, draw: changed(content, draw.randrange(8, 64), draw)),
    "a byte": replaced(lambda content, draw: changed(content, draw.randrange(2**30), draw)),
    "another byte": replaced(lambda content, draw: changed(content, draw.randrange(2**30), draw)),
    "a third byte": replaced(lambda content, draw: changed(content, draw.randrange(2**30), draw)),
    "more bytes": replaced(lambda content, _: content + b"\0\xff more"),
    "nul bytes": replaced(lambda content, _: bytes(len(content))),
    "text": replaced(lambda content, _: b"Lorem ipsum\ndolor sit amet\n"),
    "latin-1": replaced(lambda content, _: "Gr\u00fc\u00dfe 1\n".encode("latin-1")),
    "object": replaced(lambda content, _: b"{}"),
    "list": replaced(lambda content, _: b'[1, "two", null]'),
    "nested": replaced(lambda content, _: b"[" * 100_000),
    "zip": other_kind(write_zip),
    "arrays": other_kind(write_arrays),
    "checkpoint": other_kind(lambda path: torch.save({"model": {}}, path)),
    "no dictionary": other_kind(lambda path: torch.save([1, 2], path)),
    "an entry gone": edited(drop),
    "another entry gone": edited(drop),
    "an entry of another type": edited(exchange),
    "another entry of another type": edited(exchange),
    "missing": lambda path, draw: path.unlink(),
    "folder": become_folder,
    "link to itself": become_link,
}


class Outcome(NamedTuple):
    """How a command ended."""

    line: Optional[str]  # of the refusal; None: it did its work
    new: Set[str]  # files and folders that were not there before


def run_verb(*words: Any) -> Callable[[Path], None]:
    """Return the call of `taskmoe words` in the folder of the files, which FOLDER stands for."""

    def call(folder: Path) -> None:
        sys.argv = ["taskmoe", *(str(word).replace("FOLDER", str(folder)) for word in words)]
        with chdir(folder):
            cli.main()

    return call


def run_main(main: Callable[[List[str]], Any], *words: Any) -> Callable[[Path], None]:
    """Return the call of a command that takes its words."""

    def call(folder: Path) -> None:
        main([str(word).replace("FOLDER", str(folder)) for word in words])

    return call


def run_fairseq(main: Callable[[], Any], *words: Any) -> Callable[[Path], None]:
    """Return the call of a command of fairseq's with the plugin."""

    def call(folder: Path) -> None:
        task = ("--user-dir", PLUGIN, "--task", "translation_task_moe", "--cpu",
                "--num-workers", "0")
        sys.argv = ["fairseq", *(str(w).replace("FOLDER", str(folder)) for w in (*words, *task))]
        main()

    return call


def outcome(call: Callable[[Path], None], folder: Path, printed: Callable[[], str]) -> Outcome:
    """Run a command on a folder; any other error than a refusal is raised.

    printed returns what has been written to standard error since it was called last.
    """
    before, argv = files_of(folder), sys.argv
    printed()
    try:
        call(folder)
        line = None
    except Refusal as refusal:
        line = str(refusal)
    except SystemExit as end:
        said = [text for text in printed().splitlines() if "taskmoe: error: " in text]
        assert end.code in (0, None, 2), end.code
        if end.code == 2:
            (line,) = said
        else:
            line = None
    finally:
        sys.argv = argv
    assert line is None or "\n" not in line, line
    return Outcome(line, files_of(folder) - before)


def files_of(folder: Path) -> Set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def digest_of(folder: Path) -> Dict[str, Tuple[int, int]]:
    """Return sizes and times of change of all files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*") if path.is_file()
    }


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
