"""Translate a stream of lines in order, without waiting for more lines than are there."""

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
from .sentences import Line, SentenceSplitter

END = None  # the item of the queue after the last line
LINE_ENDS = str.maketrans("\n\r", "  ")


class PipeOptions(NamedTuple):
    """How lines are batched and written."""

    max_batch_tokens: int
    buffer: int  # maximum number of lines to sort by length and translate together
    scores: bool = False  # `score TAB text`
    skip_long: bool = False  # translate a line that is too long for the model to an empty one
    splitter: Optional[SentenceSplitter] = None  # translate the sentences of a line one by one


def translate_lines(
    translator: Translator, lang_pair: str, source: BinaryIO, out: TextIO,
    search: SearchOptions, options: PipeOptions,
) -> None:
    """Translate the lines of source (UTF-8); write a line to out for each, or n_best lines.

    With n_best > 1 a line of out is `line number from 1 TAB score TAB text`. Available lines are
    translated together and written before waiting for more, so a program can write a line and wait
    for its translation. Refuses a line that is not UTF-8 or too long for the model, by its number.

    source is closed at its end, and not before: closing it waits for a reader.
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
    splitter = options.splitter
    lines = [splitter.split(text) if splitter else Line([text], []) for text in texts]
    sources: List[List[str]] = []
    for number, line in enumerate(lines, before + 1):
        for sentence in line.sentences:
            try:
                sources.append(translator.encode(sentence))
            except TooLong as long:
                if not options.skip_long:
                    refuse(f"line {number} of {name} has {long}; --split-sentences translates "
                           "sentences one by one, --skip-long leaves out what is too long")
                sources.append([])
    found = translator.translate_pieces(lang_pair, sources, search, options.max_batch_tokens)
    if splitter is None:
        return found
    return [[Translation(text, 0.0)]
            for text in splitter.join(lines, (ranked[0].text for ranked in found))]


def _line(
    translation: Translation, number: int, search: SearchOptions, options: PipeOptions
) -> str:
    # pieces may contain line ends
    text = translation.text.translate(LINE_ENDS)
    if search.n_best > 1:
        return f"{number}\t{translation.score:.6f}\t{text}\n"
    return f"{translation.score:.6f}\t{text}\n" if options.scores else f"{text}\n"


def _name_of(source: BinaryIO) -> str:
    name = getattr(source, "name", None)  # a number for standard input
    return name if isinstance(name, str) else "the input"


def _decoded(line: bytes, number: int, name: str) -> str:
    """Return the text of a line, as read_files.py does."""
    if number == 1:
        line = line.removeprefix(BOM)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as problem:
        refuse(f"line {number} of {name} is not UTF-8: {problem.reason} at byte {problem.start}")


def _available(source: BinaryIO, most: int) -> Iterator[List[bytes]]:
    """Yield the available lines, at least one and at most `most`, until the end of source.

    All lines of a regular file are available, so that batches are reproducible.
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

    # a daemon: a wait for further lines must not keep the process from ending
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
    """Give a new file to write to, which appears at the end, or standard output for None."""
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # like the input, independent of the locale
        yield sys.stdout
        return
    target = Path(path)
    if target.exists():
        refuse(f"--output {path} exists; nothing was overwritten")
    if not target.parent.is_dir():
        refuse(f"--output {path}: there is no folder {target.parent}")
    with written_together([path]) as (part,), open(
        part, "w", encoding="utf-8", newline="\n"
    ) as file:
        yield file
