"""The words and language tags of a tokenizer of Hugging Face, in the order of fairseq's dictionary.

There, special words come first and tags last. The rows of embeddings are moved accordingly.
"""

import re
from typing import Dict, List, NamedTuple, Sequence

from ..errors import refuse
from .hf_folder import TOKENIZER, Folder

# tokenizer -> how its tags are written
TAGS = {
    "M2M100Tokenizer": re.compile(r"__([a-z]+(?:_[A-Za-z]+)?)__"),
    "NllbTokenizer": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
    "MarianTokenizer": re.compile(r">>([\w-]+)<<"),
}
SPECIAL = ("bos_token_id", "pad_token_id", "eos_token_id", "unk_token_id")
NO_ROW = -1


class ImportedWords(NamedTuple):
    """A dictionary, and where its rows are in the embeddings of the model."""

    words: List[str]  # special ones first, without tags
    langs: List[str]
    rows: List[int]  # of each word, then of each tag; NO_ROW: the model has none


def read_words(folder: Folder, num_rows: int) -> ImportedWords:
    """Return the words and languages of a tokenizer for embeddings with num_rows rows.

    Marian's has no <s>, and tags only where it translates into several languages. Refuses a
    tokenizer that does not fit. Rows without a word get the names with which fairseq fills
    dictionaries up, as do words that a dictionary file cannot hold.
    """
    path, tokenizer = folder.path, folder.tokenizer
    kind = type(tokenizer).__name__.removesuffix("Fast")
    if kind not in TAGS:
        refuse(f"{path}: unknown class of tokenizer {kind}; known: {', '.join(TAGS)}")
    if all(weight.dim() == 0 or len(weight) < num_rows for weight in folder.weights.values()):
        refuse(f"{path}: no weight has the {num_rows} rows of the configuration")
    names: Dict[int, str] = {}
    # M2M100Tokenizer keeps its tags apart
    vocabulary = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}
    for word, row in vocabulary.items():
        if not 0 <= row < num_rows:
            refuse(f"{path}: the tokenizer does not fit: {word!r} has number {row}, and the model "
                   f"{num_rows} rows; see {TOKENIZER}")
        names[row] = word
    is_marian = kind == "MarianTokenizer"
    special = [getattr(tokenizer, name) for name in SPECIAL]
    known = {*names, None} if is_marian else set(names)
    if len(set(special)) != len(special) or not set(special) <= known:
        refuse(f"{path}: the tokenizer lacks one of <s>, <pad>, </s> and <unk>; see {TOKENIZER}")
    tags = {
        row: match[1] for row, word in sorted(names.items())
        if (match := TAGS[kind].fullmatch(word)) and row not in special
    }
    if not (tags or is_marian):
        refuse(f"{path}: the tokenizer has no language tags; see {TOKENIZER}")
    others = [row for row in range(num_rows) if row not in tags and row not in special]
    words = ["<s>", "<pad>", "</s>", "<unk>", *_named(others, names)]
    first = [NO_ROW if row is None else row for row in special]
    langs = [lang.replace("-", "_") for lang in tags.values()]
    return ImportedWords(words, langs, [*first, *others, *tags])


def _named(rows: Sequence[int], names: Dict[int, str]) -> List[str]:
    """Return a word for each row, each one once and one that fits on a line of a dictionary."""
    taken = set(names.values())
    fillers = (name for number in range(2 * len(rows) + len(taken))
               if (name := f"madeupword{number:04d}") not in taken)
    return [
        name if (name := names.get(row, "")) and not set(name) & set(" \r\n") else next(fillers)
        for row in rows
    ]
