"""Encode text with SentencePiece, and divide the training text into shards.

With N shards, the training text of the largest pair goes to shard00 ... shard(N-1), line by line in
turn. Another pair goes to as few of the first shards as keep its shards no larger than those of the
largest pair; a small pair goes whole to the first. Validation and test data goes to the first
shard. fairseq loads one shard of each pair in an epoch, so it reads a small pair whole in every
epoch, and counts each sentence once for sampling.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import sentencepiece

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.piece_model import NoPieceModel, load_pieces

from .chunks import ChunkResult, Counts, ProcessingOptions, process_texts, summed
from .corpus import SPLITS, Sides, input_files, text_files
from .stages import run_stage
from .text_files import Chunk, count_lines, refuse_unequal_lengths


class DataLayout(NamedTuple):
    """Text to encode and binarize, and the folders for the intermediate files."""

    text: Path
    pairs: Sequence[str]
    model: Path
    dictionary: Path
    work: Path  # folder for intermediate files
    num_shards: int
    shards_per_pair: Dict[str, int]  # number of the first shards with training text of a pair

    def shards(self) -> List[str]:
        """Return the folders of the shards within encoded and binarized data."""
        if self.num_shards == 1:
            return ["."]
        return [f"shard{number:02}" for number in range(self.num_shards)]

    def splits(self, pair: str, shard: str) -> List[str]:
        """Return the splits of a pair that a shard has text of."""
        number = self.shards().index(shard)
        return [
            split for split in present_splits(self.text, pair)
            if number < (self.shards_per_pair[pair] if split == "train" else 1)
        ]

    def stamp(self, *parts: str) -> Path:
        """Return the file that marks a stage as done."""
        return self.work / "stages" / ".".join([part for part in parts if part != "."] + ["txt"])

    def encoded(self, shard: str) -> Path:
        return self.work / f"encoded{self.num_shards}" / shard

    def binarized(self, shard: str = ".") -> Path:
        return self.work / f"binarized{self.num_shards}" / shard


def shards_per_pair(text: Path, pairs: Sequence[str], num_shards: int) -> Dict[str, int]:
    """Return the number of shards that the training text of each pair is divided into."""
    if num_shards == 1:
        return dict.fromkeys(pairs, 1)
    sides = {pair: input_files(text, "train", pair)[0] for pair in pairs}
    lines = {pair: count_lines(side) if side.exists() else 0 for pair, side in sides.items()}
    return shards_by_lines(lines, num_shards)


def shards_by_lines(lines: Dict[str, int], num_shards: int) -> Dict[str, int]:
    """As shards_per_pair, from the number of lines of each pair; at least 1."""
    largest_shard = max(1, -(-max(lines.values()) // num_shards))
    return {pair: max(1, -(-number // largest_shard)) for pair, number in lines.items()}


def present_splits(text: Path, pair: str) -> List[str]:
    """Return the splits of a pair that text has; refuses none, and a split with one side only."""
    found = []
    for split in SPLITS:
        sides = input_files(text, split, pair)
        if all(side.exists() for side in sides):
            found.append(split)
        elif any(side.exists() for side in sides):
            missing = next(side for side in sides if not side.exists())
            refuse(f"{text}: {split}.{pair} has one side only, {missing.name} is missing")
    if not found:
        refuse(f"{text}: no {', '.join(SPLITS)} of {pair}, as in train.{pair}.{pair.split('-')[0]}")
    return found


@lru_cache(maxsize=1)
def load_processor(model: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a model, once in a process: every chunk needs it."""
    try:
        return load_pieces(model)
    except (OSError, NoPieceModel):
        refuse(f"{model}: not a SentencePiece model, or damaged")


def encode_lines(
    processor: sentencepiece.SentencePieceProcessor, lines: Sequence[str]
) -> List[str]:
    """Split sentences into pieces, joined by spaces."""
    # fairseq reads in text mode and splits at every kind of white space: leave only spaces
    plain = [" ".join(line.split()) for line in lines]
    pieces = processor.encode(plain, out_type=str, num_threads=1)
    return [" ".join(sentence) for sentence in pieces]


def encode_chunk(model: Path, num_shards: int, chunk: Chunk) -> ChunkResult:
    """Return the pieces of a chunk: for every shard, the source side and the target side.

    Line n goes to shard n modulo num_shards, so that every shard has lines of every part of a text.
    """
    texts: List[List[bytes]] = []
    num_tokens = 0
    for side in chunk.decoded():
        lines = encode_lines(load_processor(model), side)
        num_tokens += sum(line.count(" ") + 1 for line in lines)
        lines_by_shard = [
            lines[(shard - chunk.first_line) % num_shards :: num_shards]
            for shard in range(num_shards)
        ]
        texts.append(["".join(line + "\n" for line in each).encode() for each in lines_by_shard])
    interleaved = tuple(text for shard in zip(*texts, strict=True) for text in shard)
    return ChunkResult(interleaved, {"lines": chunk.num_lines, "tokens": num_tokens})


def encode_pair(layout: DataLayout, pair: str, options: ProcessingOptions) -> None:
    """Write the pieces of all text of a pair."""
    for split in present_splits(layout.text, pair):
        sides = input_files(layout.text, split, pair)
        num_lines = refuse_unequal_lengths(*sides)
        shards = [shard for shard in layout.shards() if split in layout.splits(pair, shard)]
        if num_lines < len(shards):
            refuse(f"{sides[0]}: {num_lines} lines, too few for {len(shards)} shard(s)")
        outputs = [path for shard in shards
                   for path in text_files(layout.encoded(shard), split, pair)]
        run_stage(
            layout.stamp("encode", split, pair),
            partial(_encode_text, layout.model, len(shards), sides, outputs, options),
            settings={"shards": len(shards)},
            inputs=[layout.model, *sides],
            outputs=outputs,
        )


def _encode_text(
    model: Path, num_shards: int, sides: Sides, outputs: Sequence[Path],
    options: ProcessingOptions,
) -> Counts:
    function = partial(encode_chunk, model, num_shards)
    return summed(process_texts([sides], outputs, function, options))
