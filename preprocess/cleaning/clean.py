"""Clean training text: normalise it, and drop the pairs that one of the rules rejects.

Validation and test sets are only checked and copied: no line may be lost, as scores are compared
line by line.
"""

from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from ..chunks import ChunkResult, Counts, ProcessingOptions, process_texts, summed
from ..corpus import Sides
from ..stages import code_of, fingerprint
from ..text_files import (
    Chunk,
    atomic_output,
    decoded_lines,
    iterate_lines,
    parallel_chunks,
    refuse_unequal_lengths,
    write_lines,
)
from . import identify, rules
from .rules import Limits, normalise, rule_chain

SentencePair = Tuple[str, str]
MOST_REJECTED = 100  # pairs that write_rejected writes for each rule


class Cleaner(NamedTuple):
    """The languages of a text, and the limits of the rules."""

    languages: Tuple[str, str]
    limits: Limits

    def settings(self) -> Dict[str, Any]:
        """Return everything that the clean text depends on, besides the raw text."""
        code = fingerprint({}, [Path(__file__), *code_of(identify, rules)])
        versions = {"pycld2": version("pycld2"), "code": code}
        return {"languages": self.languages, **asdict(self.limits), **versions}


def clean_chunk(cleaner: Cleaner, chunk: Chunk) -> ChunkResult:
    """Return the pairs of a chunk that pass all rules, and count the others by rule."""
    pairs = decode_pairs(chunk)
    dropped = {"invalid UTF-8": chunk.num_lines - len(pairs)}
    pairs, rejected = apply_rules(cleaner, pairs)
    dropped.update({name: len(found) for name, found in rejected.items()})
    texts = tuple("".join(pair[side] + "\n" for pair in pairs).encode() for side in (0, 1))
    counts = {
        "lines": chunk.num_lines,
        "bytes": sum(map(len, chunk.sides)),
        "dropped": dropped,
        "kept": {"lines": len(pairs), "bytes": sum(map(len, texts))},
    }
    return ChunkResult(texts, counts)


def apply_rules(
    cleaner: Cleaner, pairs: List[SentencePair]
) -> Tuple[List[SentencePair], Dict[str, List[SentencePair]]]:
    """Normalise pairs; return those that pass all rules, and the others by rule."""
    pairs = [(normalise(source), normalise(target)) for source, target in pairs]
    rejected = {}
    for rule in rule_chain(*cleaner):
        drops = [rule.drops(*pair) for pair in pairs]
        rejected[rule.name] = list(compress(pairs, drops))
        pairs = [pair for pair, dropped in zip(pairs, drops, strict=True) if not dropped]
    return pairs, rejected


def decode_pairs(chunk: Chunk) -> List[SentencePair]:
    """Decode the pairs of a chunk, without those that are not valid UTF-8."""
    try:
        source, target = (side.decode().split("\n")[:-1] for side in chunk.sides)
        return list(zip(source, target, strict=True))
    except UnicodeDecodeError:
        pairs = []
        for sides in zip(*(side.split(b"\n")[:-1] for side in chunk.sides), strict=True):
            try:
                pairs.append((sides[0].decode(), sides[1].decode()))
            except UnicodeDecodeError:
                continue
        return pairs


def clean_dataset(
    sides: Sides, outputs: Sides, cleaner: Cleaner, options: ProcessingOptions
) -> Counts:
    """Write the pairs of a training set that pass all rules, and return the counts."""
    function = partial(clean_chunk, cleaner)
    counts = process_texts([sides], outputs, function, options)
    # add the zero counts of an empty chunk: an empty data set has no chunk
    return summed([function(Chunk(0, 0, 0, (b"", b""), 0)).counts, *counts])


def write_rejected(
    sides: Sides, output: Path, cleaner: Cleaner, options: ProcessingOptions
) -> None:
    """Write the first pairs of a training set that each rule drops: rule TAB source TAB target."""
    found: Dict[str, List[SentencePair]] = {rule.name: [] for rule in rule_chain(*cleaner)}
    chunks = parallel_chunks([sides], options.chunk_lines)
    for rejected in options.pool.ordered_map(partial(_rejected_pairs, cleaner), chunks):
        for name, pairs in rejected.items():
            found[name] += pairs[: MOST_REJECTED - len(found[name])]
        if all(len(pairs) == MOST_REJECTED for pairs in found.values()):
            break
    write_lines(
        output, ("\t".join([name, *pair]) for name, pairs in found.items() for pair in pairs)
    )


def _rejected_pairs(cleaner: Cleaner, chunk: Chunk) -> Dict[str, List[SentencePair]]:
    _, rejected = apply_rules(cleaner, decode_pairs(chunk))
    return {name: pairs[:MOST_REJECTED] for name, pairs in rejected.items()}


def copy_eval_text(sides: Sides, outputs: Sides) -> Counts:
    """Copy a validation or test set line by line; refuses invalid UTF-8 and unequal lengths."""
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
