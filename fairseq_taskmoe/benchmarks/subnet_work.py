"""What the variants of a sub-network's measurement translate: one test set."""

import os
from typing import FrozenSet, List, NamedTuple, Optional

import numpy as np
from fairseq.data.data_utils import load_indexed_dataset

from ..checkpoint.reading import Checkpoint
from ..data.dataset_manager import pair_prefix
from ..data.languages import LanguageTags, load_joined_dictionary
from ..errors import refuse
from ..serving.engine import SearchOptions, Tags

LONGEST = 200  # pieces of a translation of free length, as in fairseq-generate


class Work(NamedTuple):
    """What is translated, and how."""

    data: str
    path: str  # of the full checkpoint
    lang_pair: str
    gen_subset: str = "test"
    beam: int = 4
    output_length: Optional[int] = None  # pieces of every translation; None: as long as it likes
    max_tokens: int = 4000  # of a batch
    threads: int = 1

    @property
    def cuts_off(self) -> bool:
        """Whether CTranslate2 gives hypotheses back before it has searched for their end."""
        return self.output_length is not None

    @property
    def folder(self) -> str:
        """Where the test set is: with several folders of data, in the first."""
        return self.data.split(":")[0]

    def absolute(self) -> "Work":
        """Return the same work for a process in another folder."""
        folders = [os.path.abspath(folder) for folder in self.data.split(":")]
        return self._replace(data=":".join(folders), path=os.path.abspath(self.path))

    def search(self) -> SearchOptions:
        length = self.output_length
        return SearchOptions(
            self.beam, n_best=self.beam if self.cuts_off else 1, min_length=length or 1,
            max_length=length or LONGEST,
        )

    def flags(self, tags: Tags) -> List[str]:
        """Return the flags of fairseq-generate for this, which counts tags in lengths."""
        search = self.search()
        words = [
            "--gen-subset", self.gen_subset, "--beam", self.beam, "--max-tokens", self.max_tokens,
            "--min-len", len(tags.target) + search.min_length,
            "--max-len-b", len(tags.target) + search.max_length,
            "--required-batch-size-multiple", 1, "--cpu",
            "--num-workers", 0,  # no process for reading: with small test sets it costs more
        ]
        return [str(word) for word in words]


class Sentences(NamedTuple):
    """The sources of a test set."""

    pieces: List[List[str]]  # without tags and without the end
    tags: Tags
    all_tags: FrozenSet[str]  # of all languages
    has_marks: bool  # whether they are SentencePiece's, with marks in front of words


def read_sentences(work: Work, checkpoint: Checkpoint) -> Sentences:
    """Return the test set of a work, refusing one that its model cannot translate."""
    source, target = work.lang_pair.split("-")
    prefix = pair_prefix(work.folder, work.gen_subset, work.lang_pair)
    if prefix is None:
        refuse(f"--lang-pair {work.lang_pair}: {work.folder} has no {work.gen_subset} set of it")
    dictionary = load_joined_dictionary(work.folder, [source, target])
    languages = LanguageTags.from_state(checkpoint["task_state"]["tags"])
    tags = Tags(*languages.of_pair(work.lang_pair))
    sources, targets = (load_indexed_dataset(f"{prefix}.{lang}") for lang in (source, target))
    pieces = [[dictionary[i] for i in sentence.tolist()[:-1]] for sentence in sources]
    # with the end, as fairseq counts
    source_sizes = np.array([len(sentence) for sentence in sources]) + len(tags.source)
    target_sizes = np.array([len(sentence) for sentence in targets]) + len(tags.target)
    sizes = np.maximum(source_sizes, target_sizes)
    model = checkpoint["cfg"]["model"]
    if source_sizes.max() > model["max_source_positions"]:
        refuse(f"--gen-subset {work.gen_subset}: a source has {source_sizes.max()} tokens, and the "
               f"model reads at most {model['max_source_positions']}")
    longest = model["max_target_positions"] - len(tags.target) - 1
    if (work.output_length or 0) > longest:
        refuse(f"--output-length {work.output_length}: the model writes at most {longest} pieces")
    if sizes.max() > work.max_tokens:
        refuse(f"--max-tokens {work.max_tokens}: one sentence has {sizes.max()}")
    return Sentences(
        pieces, tags,
        frozenset(languages.tag(lang) for lang in languages.langs),
        any(word.startswith("\u2581") for word in dictionary.symbols),
    )
