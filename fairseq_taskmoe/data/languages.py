"""The languages of a model: their tags, and their joined dictionary."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq.data import Dictionary
from fairseq.data.multilingual.multilingual_utils import augment_dictionary
from fairseq.utils import split_paths

from ..errors import refuse
from ..metrics.lang_pairs import languages_of, split_pair
from ..read_files import read_bytes
from .dictionary_file import read_dictionary
from .named_pairs import named_languages, named_pairs
from .task_table import TaskTable

TAG_FORMS = {"multilingual": "__{}__", "mbart": "[{}]"}  # by --lang-tok-style
NUM_SPECIAL = 4  # the first words of fairseq's dictionaries: <s> <pad> </s> <unk>


class LanguageTags(NamedTuple):
    """The languages with tags in the dictionary, and the use of tags in the text."""

    langs: Tuple[str, ...]  # in the order of the tags' ids
    encoder_langtok: Optional[str]  # language of the tag before the source: `src` or `tgt`
    decoder_langtok: bool  # whether the target's language tag is before the target
    style: str  # multilingual: __de__, mbart: [de]

    @classmethod
    def from_config(cls, cfg: Any, lang_pairs: Sequence[str]) -> "LanguageTags":
        """Return the tags according to the task's flags."""
        used = languages_of(lang_pairs)
        langs = named_languages(cfg.langs) or used
        if cfg.encoder_langtok not in (None, "src", "tgt"):
            refuse(f"--encoder-langtok {cfg.encoder_langtok}: choose src or tgt")
        for lang in used:
            if lang not in langs:
                refuse(f"--lang-pairs has the language {lang}, which is not in --langs")
        return cls(tuple(langs), cfg.encoder_langtok, cfg.decoder_langtok, str(cfg.lang_tok_style))

    def add_to(self, dictionary: Dictionary) -> None:
        """Append the tags to a dictionary if they are missing."""
        augment_dictionary(dictionary, list(self.langs), self.style)

    def check_flags(self, cfg: Any) -> None:
        """Refuse flags that contradict these tags, which are of a checkpoint."""
        given = {
            "langs": tuple(named_languages(cfg.langs)) or None,
            "encoder_langtok": cfg.encoder_langtok,
            "decoder_langtok": cfg.decoder_langtok or None,
            "style": None if cfg.lang_tok_style == "multilingual" else str(cfg.lang_tok_style),
        }
        for name, value in given.items():
            stored = getattr(self, name)
            if value is not None and value != stored:
                flag = "--lang-tok-style" if name == "style" else "--" + name.replace("_", "-")
                refuse(f"{flag} {value} contradicts the checkpoint, trained with {stored}")

    def tag(self, lang: str) -> str:
        """Return a language's tag, as in the dictionary."""
        return TAG_FORMS[self.style].format(lang)

    def of_pair(self, lang_pair: str) -> Tuple[List[str], List[str]]:
        """Return the tags before a pair's sources and before its targets."""
        langs = dict(zip(("src", "tgt"), split_pair(lang_pair), strict=True))
        in_source = [self.tag(langs[self.encoder_langtok])] if self.encoder_langtok else []
        return in_source, [self.tag(langs["tgt"])] if self.decoder_langtok else []

    def state(self) -> Dict[str, Any]:
        """Return the tags in plain types for checkpoints."""
        return {**self._asdict(), "langs": list(self.langs)}

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> "LanguageTags":
        """Return the tags of a state()."""
        return cls(**{**state, "langs": tuple(state["langs"])})


def pairs_with_data(cfg: Any) -> List[str]:
    """Return the pairs to train on, sorted."""
    if not cfg.lang_pairs:
        refuse("--lang-pairs is required: give all pairs to train on, as en-de,de-en")
    return list(TaskTable.from_pairs(named_pairs(cfg.lang_pairs)).trained)


def languages_from_config(cfg: Any) -> Tuple[TaskTable, LanguageTags]:
    """Return the task table and the tags according to the flags, for training."""
    frozen = named_pairs(cfg.freeze_tasks, "--freeze-tasks")
    table = TaskTable.from_pairs([*pairs_with_data(cfg), *frozen])
    return table, LanguageTags.from_config(cfg, table.trained)


def check_folders(data: str) -> None:
    """Refuse missing folders of binarized data; several are joined by colons."""
    for folder in split_paths(data):
        if not os.path.isdir(folder):
            refuse(f"{folder}: no such folder of data")


def load_joined_dictionary(folder: str, langs: Sequence[str]) -> Dictionary:
    """Return the joined dictionary of langs in folder, refusing different dictionaries."""
    check_folders(folder)
    contents: Dict[str, bytes] = {}
    for lang in langs:
        path = os.path.join(folder, f"dict.{lang}.txt")
        if not os.path.exists(path):
            refuse(f"{folder} has no dict.{lang}.txt: the language {lang} is not in this data")
        contents[path] = read_bytes(path)
    first = next(iter(contents))
    for path, content in contents.items():
        if content != contents[first]:
            refuse(
                f"{path} differs from {first}: all languages must have the same; binarize with "
                "fairseq-preprocess --joined-dictionary, or --srcdict and --tgtdict of one file"
            )
    return read_dictionary(first)


def make_dictionary(words: Sequence[str], tags: LanguageTags) -> Dictionary:
    """Return the dictionary of a model: its words, starting with NUM_SPECIAL, then tags."""
    dictionary = Dictionary()
    for word in words[NUM_SPECIAL:]:
        dictionary.add_symbol(word)
    tags.add_to(dictionary)
    return dictionary


def real_words(words: Sequence[str]) -> List[str]:
    """Return words without special words and fairseq's padding words (madeupword...)."""
    return [word for word in words[NUM_SPECIAL:] if not word.startswith("madeupword")]


def numbered_dictionary(num_words: int) -> Dictionary:
    """Return a dictionary of num_words words in all, for models without text."""
    dictionary = Dictionary()
    for word in range(num_words - len(dictionary)):
        dictionary.add_symbol(f"word{word}")
    return dictionary


def check_words(own: List[str], trained: List[str]) -> None:
    """Refuse a dictionary with other words than a checkpoint, or in another order."""
    for i, (word, trained_word) in enumerate(zip(own, trained, strict=False)):
        if word != trained_word:
            refuse(
                f"the dictionary does not match the checkpoint: word {i} is {word!r}, the model "
                f"was trained with {trained_word!r}"
            )
    if len(own) != len(trained):
        refuse(
            f"the dictionary does not match the checkpoint: it has {len(own)} words, the model was "
            f"trained with {len(trained)}"
        )
