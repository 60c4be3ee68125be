"""Converting token ids to the text that is scored."""

from typing import Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor

from .languages import LanguageTags


class TextOf:
    """Converts token ids to text, without tags, padding and markers of subwords.

    The markers are those of post_process (as fairseq's --remove-bpe), by default SentencePiece's if
    the dictionary has SentencePiece pieces.
    """

    def __init__(
        self, dictionary: Dictionary, tags: LanguageTags, post_process: Optional[str] = None
    ):
        self.dictionary = dictionary
        self.left_out = {dictionary.index(tags.tag(lang)) for lang in tags.langs}
        self.left_out |= {dictionary.pad(), dictionary.bos(), dictionary.eos()}
        has_pieces = any(word.startswith("\u2581") for word in dictionary.symbols)
        self.post_process = post_process or ("sentencepiece" if has_pieces else None)

    def __call__(self, tokens: Tensor) -> str:
        kept = [token for token in tokens.tolist() if token not in self.left_out]
        return self.dictionary.string(torch.tensor(kept), self.post_process).strip()
