"""Encode clean text with SentencePiece, and deal the training sets out to shards."""

from functools import lru_cache, partial
from pathlib import Path
from typing import List, Sequence

import sentencepiece

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.piece_model import NoPieceModel, load_pieces
from preprocess.chunks import Made, ProcessingOptions, process_texts
from preprocess.counts import Counts, summed
from preprocess.stages import file_hash
from preprocess.text_files import Chunk


@lru_cache(maxsize=1)
def load_processor(model: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a model once in a process: chunk after chunk needs it."""
    try:
        return load_pieces(model)
    except (OSError, NoPieceModel):
        refuse(f"{model}: no SentencePiece model, or a damaged one")


def encode_lines(
    processor: sentencepiece.SentencePieceProcessor, lines: Sequence[str]
) -> List[str]:
    """Split sentences into pieces, joined by spaces."""
    # fairseq reads in text mode and splits at whitespace of every kind: leave it spaces only
    plain = [" ".join(line.split()) for line in lines]
    pieces = processor.encode(plain, out_type=str, num_threads=1)
    return [" ".join(sentence) for sentence in pieces]


def encode_chunk(model: Path, num_shards: int, chunk: Chunk) -> Made:
    """Return a chunk in pieces: for every shard the first side and the second.

    Lines are dealt out in turn, like cards, so that every shard has lines of every part of a text.
    """
    texts: List[List[bytes]] = []
    num_tokens = 0
    for side in chunk.decoded():
        lines = encode_lines(load_processor(model), side)
        num_tokens += sum(line.count(" ") + 1 for line in lines)
        hands = [
            lines[(shard - chunk.first_line) % num_shards :: num_shards]
            for shard in range(num_shards)
        ]
        texts.append(["".join(line + "\n" for line in hand).encode() for hand in hands])
    interleaved = tuple(text for shard in zip(*texts, strict=True) for text in shard)
    return Made(interleaved, {"lines": chunk.num_lines, "tokens": num_tokens})


def encode_text(
    sides: Sequence[Path], shards: Sequence[Sequence[Path]], model: Path, journal: Path,
    way: ProcessingOptions,
) -> Counts:
    """Write a parallel text in pieces to shards, each given as the files of its sides."""
    outputs = [path for shard in shards for path in shard]
    function = partial(encode_chunk, model, len(shards))
    settings = {"model": file_hash(model), "shards": len(shards)}
    return summed(process_texts([sides], outputs, function, journal, settings, way))
