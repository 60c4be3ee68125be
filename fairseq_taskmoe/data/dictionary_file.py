"""The dictionary file of binarized data, dict.txt, with a word and its count on each line."""

from fairseq.data import Dictionary

from ..errors import refuse
from ..read_files import BOM, read_bytes, read_lines

OVERWRITE = "#fairseq:overwrite"  # follows the count of a word that may replace an earlier one


def read_dictionary(path: str) -> Dictionary:
    """Return the dictionary in a file, as fairseq reads it, refusing invalid files.

    Token ids are the positions of words in the file, so a duplicate word would shift them. fairseq
    would take a byte order mark for a part of the first word.
    """
    if read_bytes(path).startswith(BOM):
        refuse(f"{path}: begins with a byte order mark, which would be part of its first word")
    dictionary = Dictionary()
    for number, line in enumerate(read_lines(path), 1):
        word, _, count = line.rstrip().rpartition(" ")
        overwrite = count == OVERWRITE
        if overwrite:
            word, _, count = word.rpartition(" ")
        if not (word and _is_number(count)) or "\r" in word:
            refuse(f"{path}: line {number} is not a word and its count")
        if word in dictionary and not overwrite:
            refuse(f"{path}: line {number}: the word {word!r} is a duplicate, or reserved by "
                   "fairseq")
        dictionary.add_symbol(word, int(count), overwrite)
    if len(dictionary) == dictionary.nspecial:
        refuse(f"{path}: has no words")
    return dictionary


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
