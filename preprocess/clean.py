"""Clean one parallel text: a source file and a target file, one sentence per line.

For training, pairs that would hurt are dropped, counted, and the first of each kind named. For
test data (--test) no line may be lost, as scores are compared line by line: invalid UTF-8 is
refused, empty and over-long lines are reported and kept (a translator answers them with an empty
line).
"""

import argparse
import hashlib
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from fairseq_taskmoe.errors import refuse
from preprocess.text_files import (
    atomic_output,
    iterate_lines,
    refuse_existing,
    refuse_unequal_lengths,
)

NUM_NAMED_LINES = 5


@dataclass
class Limits:
    """What a training pair must fulfil."""

    max_words: int = 250
    max_chars: int = 2000  # for scripts without spaces
    keep_copies: bool = True
    nfkc: bool = False


@dataclass
class Report:
    """Counts lines by what is wrong with them and remembers where the first ones are."""

    counts: Dict[str, int] = field(default_factory=dict)
    first_lines: Dict[str, List[int]] = field(default_factory=dict)

    def add(self, kind: str, line: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        named = self.first_lines.setdefault(kind, [])
        if len(named) < NUM_NAMED_LINES:
            named.append(line)

    def print(self, verb: str) -> None:
        for kind, count in self.counts.items():
            named = ", ".join(map(str, self.first_lines[kind]))
            rest = ", ..." if count > NUM_NAMED_LINES else ""
            print(f"{verb} {count} {kind}: line {named}{rest}", file=sys.stderr)


def normalise(text: str, nfkc: bool) -> str:
    """Turn control characters into spaces and join runs of white space."""
    if nfkc:
        text = unicodedata.normalize("NFKC", text)
    # beside tabs and the like: a carriage return inside a sentence, which Python's text mode, and
    # so fairseq, would take for a line end
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(text.split())


def length_problem(source: str, target: str, limits: Limits) -> Optional[str]:
    """Say "empty" or "over-long" where either side is so."""
    if not source or not target:
        return "empty"
    if max(len(source.split()), len(target.split())) > limits.max_words:
        return "over-long"
    if max(len(source), len(target)) > limits.max_chars:
        return "over-long"
    return None


def clean_training_pairs(
    source: Path, target: Path, limits: Limits, report: Report
) -> Iterator[Tuple[str, str]]:
    """Yield the pairs worth training on and report the others."""
    # hashes, as the text of a large corpus would not fit in memory
    seen: Set[bytes] = set()
    pairs = zip(iterate_lines(source), iterate_lines(target), strict=True)
    for number, (source_bytes, target_bytes) in enumerate(pairs, start=1):
        try:
            source_text = normalise(source_bytes.decode(), limits.nfkc)
            target_text = normalise(target_bytes.decode(), limits.nfkc)
        except UnicodeDecodeError:
            report.add("invalid UTF-8", number)
            continue
        problem = length_problem(source_text, target_text, limits)
        if problem is None and source_text == target_text and not limits.keep_copies:
            problem = "copies"
        if problem is None:
            digest = hashlib.blake2b(f"{source_text}\n{target_text}".encode(), digest_size=16)
            if digest.digest() in seen:
                problem = "duplicates"
            seen.add(digest.digest())
        if problem is None:
            yield source_text, target_text
        else:
            report.add(problem, number)


def check_test_lines(source: Path, target: Path, limits: Limits, report: Report) -> None:
    """Refuse text that is not UTF-8, and report what a translator will leave empty."""
    pairs = zip(iterate_lines(source), iterate_lines(target), strict=True)
    for number, sides in enumerate(pairs, start=1):
        text = []
        for path, line in zip((source, target), sides, strict=True):
            try:
                text.append(line.decode())
            except UnicodeDecodeError:
                refuse(f"{path}, line {number}: not valid UTF-8")
        problem = length_problem(text[0].strip(), text[1].strip(), limits)
        if problem:
            report.add(problem, number)


def clean_training_text(
    source: Path, target: Path, out_source: Path, out_target: Path, limits: Limits
) -> int:
    """Write the clean pairs of a training text and return how many there are."""
    total, kept, report = refuse_unequal_lengths(source, target), 0, Report()
    with atomic_output(out_source) as source_stream, atomic_output(out_target) as target_stream:
        for source_text, target_text in clean_training_pairs(source, target, limits, report):
            source_stream.write(source_text.encode() + b"\n")
            target_stream.write(target_text.encode() + b"\n")
            kept += 1
    report.print("dropped")
    print(f"kept {kept} of {total} sentence pairs", file=sys.stderr)
    return kept


def copy_test_text(
    source: Path, target: Path, out_source: Path, out_target: Path, limits: Limits
) -> int:
    """Check a test text and copy all of its lines, byte by byte; return how many there are."""
    total, report = refuse_unequal_lengths(source, target), Report()
    check_test_lines(source, target, limits, report)
    for path, out in ((source, out_source), (target, out_target)):
        with atomic_output(out) as stream:
            stream.writelines(line + b"\n" for line in iterate_lines(path))
    report.print("kept")
    print(f"kept all {total} sentence pairs", file=sys.stderr)
    return total


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--out-source", type=Path, required=True)
    parser.add_argument("--out-target", type=Path, required=True)
    parser.add_argument("--test", action="store_true", help="test data: check it, lose no line")
    parser.add_argument("--max-words", type=int, default=Limits.max_words)
    parser.add_argument("--max-chars", type=int, default=Limits.max_chars)
    parser.add_argument(
        "--drop-copies", action="store_true", help="drop pairs whose sides are the same"
    )
    parser.add_argument(
        "--nfkc",
        action="store_true",
        help="normalise training text to NFKC; SentencePiece does so by itself, but with this "
        "more duplicates are found",
    )
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    files = [args.source, args.target, args.out_source, args.out_target]
    if len({path.resolve() for path in files}) < len(files):
        refuse("source, target, --out-source and --out-target must be four different files")
    refuse_existing([args.out_source, args.out_target], args.overwrite)
    limits = Limits(args.max_words, args.max_chars, not args.drop_copies, args.nfkc)
    clean = copy_test_text if args.test else clean_training_text
    clean(args.source, args.target, args.out_source, args.out_target, limits)


if __name__ == "__main__":
    main()
