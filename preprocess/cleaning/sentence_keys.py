"""64-bit keys of sentences: equal up to case, digits, punctuation and white space."""

import re
import string
import unicodedata
from hashlib import blake2b
from typing import Callable, Iterable, List

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
KEY_BYTES = 8  # 100 million sentences have a collision with a probability of 1 in 3,700


def character_class(condition: Callable[[str], bool]) -> str:
    """Return a regular expression of the non-ASCII characters whose category meets a condition.

    Only of the basic plane: Python makes a fast table of these, and a slow list of more.
    """
    chars = (chr(code) for code in range(0x80, 0x10000) if not 0xD800 <= code < 0xE000)
    return "[" + "".join(char for char in chars if condition(unicodedata.category(char))) + "]"


def is_ignored(category: str) -> bool:
    """Return whether a category is of punctuation, spaces, control or format characters.

    Symbols count, and marks, which are vowels in Indic scripts.
    """
    return category[0] in "PZ" or category in ("Cc", "Cf")


IGNORED = re.compile(character_class(is_ignored) + "+")
DIGITS = re.compile(character_class(lambda category: category == "Nd"))
ASCII_DIGITS = bytes(ord("0") if chr(code) in string.digits else code for code in range(256))
ASCII_IGNORED = bytes(code for code in range(128) if is_ignored(unicodedata.category(chr(code))))


def folded(text: str) -> bytes:
    """Return a sentence in lower case, each digit as 0, without punctuation and white space.

    A sentence of punctuation and white space only is returned unchanged.
    """
    lower = text.lower()
    if not lower.isascii():
        lower = DIGITS.sub("0", IGNORED.sub("", lower))
    # the tables change no bytes above 127
    return lower.encode().translate(ASCII_DIGITS, ASCII_IGNORED) or text.encode()


def keys_of_sentences(language: str, sentences: Iterable[bytes]) -> Keys:
    """Return the keys of folded sentences (N,) in a language."""
    prefix = language.encode() + b"\n"
    return _keys([prefix + sentence for sentence in sentences])


def keys_of_pairs(sources: Iterable[bytes], targets: Iterable[bytes]) -> Keys:
    """Return the keys of folded sentence pairs (N,)."""
    return _keys([b"%b\n%b" % pair for pair in zip(sources, targets, strict=True)])


def _keys(texts: List[bytes]) -> Keys:
    digests = b"".join([blake2b(text, digest_size=KEY_BYTES).digest() for text in texts])
    return np.frombuffer(digests, dtype="<u8")


def first_occurrences(keys: Keys, block: int = 1 << 23) -> NDArray[np.bool_]:
    """Return for each of N keys whether no earlier key is equal; keys may be mapped from a file.

    The keys are partitioned by their first bits into parts of about a block each. Memory is N bytes
    and 40 bytes a key of a block.
    """
    first = np.zeros(len(keys), dtype=bool)
    num_bits = max(0, (len(keys) - 1) // block).bit_length()
    for part in range(1 << num_bits):
        indices = _with_first_bits(keys, part, num_bits, block)
        # unique returns the indices of first occurrences
        _, unique = np.unique(keys[indices], return_index=True)
        first[indices[unique]] = True
    return first


def _with_first_bits(keys: Keys, part: int, num_bits: int, block: int) -> NDArray[np.int64]:
    if num_bits == 0:  # a shift by all 64 bits is undefined
        return np.arange(len(keys))
    shift = np.uint64(64 - num_bits)
    found = [
        start + np.flatnonzero(keys[start : start + block] >> shift == part)
        for start in range(0, len(keys), block)
    ]
    return np.concatenate(found)
