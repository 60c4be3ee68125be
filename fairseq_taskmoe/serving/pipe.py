"""Translating a stream of lines: what is there is translated at once, in order."""

import os
import stat
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, TextIO, Union

from tqdm import tqdm

from ..engines.engine import SearchOptions
from ..engines.translator import TooLong, Translation, Translator
from ..errors import refuse
from ..files import written_together
from ..read_files import BOM

END = None  # of the lines, in the queue
LINE_ENDS = str.maketrans("\n\r", "  ")


class PipeOptions(NamedTuple):
    """How lines are put together and written."""

    max_batch_tokens: int
    buffer: int  # lines that are translated together, at most
    scores: bool = False  # `score TAB text`
    skip_long: bool = False  # a line that is too long for the model becomes an empty one


def translate_lines(
    translator: Translator, lang_pair: str, source: BinaryIO, out: TextIO,
    search: SearchOptions, options: PipeOptions,
) -> None:
    """Translate the lines of source (UTF-8), a line of out for each, or n_best lines.

    source is closed when it ends, and only then: while it is read, closing it would wait for it.

    With n_best > 1 a line of out is `number of the line from 1 TAB score TAB text`. Lines that are
    there are translated together, and written before more are waited for: a program that writes a
    line and waits for its translation gets it. Refuses, with its number, a line that is no UTF-8,
    or that is longer than the model reads.
    """
    number, name = 0, _name_of(source)
    with tqdm(desc=lang_pair, unit="line", disable=None) as bar:
        for lines in _available(source, options.buffer):
            texts = [_decoded(line, number + i, name) for i, line in enumerate(lines, 1)]
            found = _translate(translator, lang_pair, texts, search, options, number, name)
            for ranked in found:
                number += 1
                for translation in ranked:
                    out.write(_line(translation, number, search, options))
            out.flush()
            bar.update(len(lines))


def _translate(
    translator: Translator, lang_pair: str, texts: List[str], search: SearchOptions,
    options: PipeOptions, before: int, name: str,
) -> List[List[Translation]]:
    sources: List[List[str]] = []
    for number, text in enumerate(texts, before + 1):
        try:
            sources.append(translator.encode(text))
        except TooLong as long:
            if not options.skip_long:
                refuse(f"line {number} of {name} has {long}; --skip-long translates such lines to "
                       "empty ones")
            sources.append([])
    return translator.translate_pieces(lang_pair, sources, search, options.max_batch_tokens)


def _line(
    translation: Translation, number: int, search: SearchOptions, options: PipeOptions
) -> str:
    # a translation is one line, whatever the pieces hold
    text = translation.text.translate(LINE_ENDS)
    if search.n_best > 1:
        return f"{number}\t{translation.score:.6f}\t{text}\n"
    return f"{translation.score:.6f}\t{text}\n" if options.scores else f"{text}\n"


def _name_of(source: BinaryIO) -> str:
    name = getattr(source, "name", None)  # of standard input a number
    return name if isinstance(name, str) else "the input"


def _decoded(line: bytes, number: int, name: str) -> str:
    """Return the text of a line, read as read_files.py does."""
    if number == 1:
        line = line.removeprefix(BOM)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as problem:
        refuse(f"line {number} of {name} is no UTF-8: {problem.reason} at byte {problem.start}")


def _available(source: BinaryIO, most: int) -> Iterator[List[bytes]]:
    """Yield the lines that are there, at least one and at most `most`, until there are no more.

    All lines of a file are there: the same ones go together every time.
    """
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        with source:
            while got := list(islice(source, most)):
                yield got
        return
    lines: "Queue[Union[bytes, None, Exception]]" = Queue(most)

    def read() -> None:
        try:
            with source:
                for line in source:
                    lines.put(line)
            lines.put(END)
        except Exception as problem:
            lines.put(problem)

    # a daemon: it may wait for a line that never comes when this process has to end
    Thread(target=read, daemon=True).start()
    line = lines.get()
    while line is not END:
        got = []
        while isinstance(line, bytes):
            got.append(line)
            if lines.empty() or len(got) == most:
                break
            line = lines.get()
        if got:
            yield got
        if isinstance(line, bytes):
            line = lines.get()
        elif isinstance(line, Exception):
            raise line


@contextmanager
def output_file(path: Optional[str]) -> Iterator[TextIO]:
    """Give the file to write to, which is there when all went well; standard output for None."""
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as the input is, whatever the locale
        yield sys.stdout
        return
    target = Path(path)
    if target.exists():
        refuse(f"--output {path} exists; nothing was overwritten")
    if not target.parent.is_dir():
        refuse(f"--output {path}: {target.parent} is no folder")
    with written_together([path]) as (part,), open(
        part, "w", encoding="utf-8", newline="\n"
    ) as file:
        yield file
