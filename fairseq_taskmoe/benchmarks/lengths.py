"""Lengths of real sentences, for batches with the shapes of training and translation.

TABLE has 300 pairs of the 99,114 of the demo's corpus (interface text, six directions), at equal
distances in the order of their lengths, in tokens of a joint vocabulary of 8,000 pieces: sources
with a language tag and the end of sentence, targets with the end. An entry is the source's length,
and the targets' lengths with their numbers.
"""

from typing import List, NamedTuple

import torch

TABLE = """
    3:2x3,3x3,5 4:2x3,3x18,4x10,5x3,6x2,7,8 5:2,3x11,4x14,5x8,6x4,7x2,8,9
    6:2,3x3,4x9,5x7,6x6,7x2,8x2,9,11 7:3x2,4x4,5x5,6x6,7x3,8x2,9,10,11
    8:2,3,4x2,5x2,6x4,7x3,8x3,9,10,11,12 9:3,4,5,6x3,7x2,8x2,9x2,10,11,12,13
    10:4,5,6,7x2,8x2,9x2,10,11,12,13,26 11:6,7,8x2,9,10x2,11,12,14,17 12:6,8,9x2,10,11,12,13,15,20
    13:7,9,10,11,12,13,15,17 14:7,9,11,12,13,14,16,20 15:9,11,12,14,16,18 16:7,11,13,15,16,20
    17:9,12,15,17,19 18:8,13,16,18,23 19:12,15,18,22 20:9,15,19,23 21:14,18,22 22:13,18,23
    23:13,20,26 24:17,23 25:12,22,32 26:23,36 27:24 28:18,30 29:24 30:22 31:21,45 32:39 33:34 34:34
    35:35 36:39 38:25 39:36 40:47 42:45 45:24 47:35 49:54 53:59 59:38 65:69 81:55
"""


class Lengths(NamedTuple):
    """The tokens of a sentence and of its translation."""

    source: int
    target: int


def table() -> List[Lengths]:
    """Return the pairs of TABLE."""
    pairs = []
    for entry in TABLE.split():
        source, _, targets = entry.partition(":")
        for target in targets.split(","):
            length, _, count = target.partition("x")
            pairs += [Lengths(int(source), int(length))] * int(count or 1)
    return pairs


def draw_lengths(number: int, generator: torch.Generator) -> List[Lengths]:
    """Return lengths of sentences, drawn with replacement."""
    pairs = table()
    return [pairs[i] for i in torch.randint(len(pairs), (number,), generator=generator)]
