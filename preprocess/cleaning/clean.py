"""Clean training text: normalise it, and drop the pairs that a chain of rules finds bad.

Validation and test sets are only checked and copied: no line may be lost, as scores are compared
line by line.
"""

import time
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, List, Tuple

from preprocess.chunks import Made, ProcessingOptions, process_texts
from preprocess.cleaning import language_id, rules, scripts
from preprocess.cleaning.rules import Limits, normalise, rule_chain
from preprocess.counts import Counts, summed
from preprocess.stages import code_of, fingerprint
from preprocess.text_files import (
    Chunk,
    atomic_output,
    decoded_lines,
    iterate_lines,
    refuse_unequal_lengths,
)

Pair = Tuple[str, str]
Sides = Tuple[Path, Path]  # of the source, of the target


class Tally:
    """Times rules, and counts what they see and drop."""

    def __init__(self, num_pairs: int, num_bytes: int):
        self.counts: Counts = {"lines": num_pairs, "bytes": num_bytes, "dropped": {}, "speed": {}}
        self.bytes_per_pair = num_bytes / max(num_pairs, 1)
        self.num_left = num_pairs
        self.started = time.process_time()

    def after(self, name: str, num_left: int) -> None:
        """Note that a rule has run, and how many pairs it left."""
        now = time.process_time()
        seen = round(self.num_left * self.bytes_per_pair)
        self.counts["speed"][name] = {"bytes": seen, "seconds": now - self.started}
        self.counts["dropped"][name] = self.num_left - num_left
        self.num_left, self.started = num_left, now


def clean_chunk(languages: Pair, limits: Limits, chunk: Chunk) -> Made:
    """Return the good pairs of a chunk; counts by rule how many were dropped, in what time."""
    lines = [side.split(b"\n")[:-1] for side in chunk.sides]
    tally = Tally(len(lines[0]), sum(map(len, chunk.sides)))
    pairs = decode_pairs(chunk, lines)
    tally.after("invalid UTF-8", len(pairs))
    pairs = [(normalise(source), normalise(target)) for source, target in pairs]
    tally.after("normalise", len(pairs))
    for rule in rule_chain(languages, limits):
        pairs = [pair for pair in pairs if not rule.drops(*pair)]
        tally.after(rule.name, len(pairs))
    texts = tuple("".join(pair[side] + "\n" for pair in pairs).encode() for side in (0, 1))
    kept = {"lines": len(pairs), "bytes": sum(map(len, texts))}
    return Made(texts, {**tally.counts, "kept": kept})


def decode_pairs(chunk: Chunk, lines: List[List[bytes]]) -> List[Pair]:
    """Decode the pairs of a chunk, without those that are no UTF-8."""
    try:
        source, target = (side.decode().split("\n")[:-1] for side in chunk.sides)
        return list(zip(source, target, strict=True))
    except UnicodeDecodeError:
        pairs = []
        for source_bytes, target_bytes in zip(*lines, strict=True):
            try:
                pairs.append((source_bytes.decode(), target_bytes.decode()))
            except UnicodeDecodeError:
                continue
        return pairs


def clean_dataset(
    sides: Sides,
    outputs: Sides,
    languages: Pair,
    limits: Limits,
    journal: Path,
    way: ProcessingOptions,
) -> Counts:
    """Write the good pairs of a training set, and return what was counted."""
    function = partial(clean_chunk, languages, limits)
    settings = clean_settings(languages, limits)
    counts = process_texts([sides], outputs, function, journal, settings, way)
    # with those of no line at all, as an empty data set has no chunk
    return summed([function(Chunk(0, 0, 0, (b"", b""), 0)).counts, *counts])


def clean_settings(languages: Pair, limits: Limits) -> Dict[str, Any]:
    """Return all that a clean text depends on, beside its raw text."""
    code = fingerprint({}, [Path(__file__), *code_of(language_id, rules, scripts)])
    known = {"pycld2": version("pycld2"), "code": code}
    return {"languages": languages, **asdict(limits), **known}


def copy_eval_text(sides: Sides, outputs: Sides) -> Counts:
    """Copy a validation or test set line by line, refusing what is not UTF-8 and unequal sides."""
    num_lines = refuse_unequal_lengths(*sides)
    empty = {
        number
        for path in sides
        for number, line in enumerate(decoded_lines(path))
        if not line.strip()
    }
    for path, output in zip(sides, outputs, strict=True):
        with atomic_output(output) as stream:
            stream.writelines(line + b"\n" for line in iterate_lines(path))
    return {"lines": num_lines, "empty": len(empty)}
