"""A multilingual set-up that nobody has to download: random words, and weights that mean nothing.

All of it is made by fairseq's own tools, so that what reads it is the same as with real data.
"""

import random
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

import torch
from fairseq import options
from fairseq_cli import preprocess  # type: ignore[import-untyped]

from ..errors import refuse
from ..verbs.user_dir import user_dir

# those of WMT in the paper, appendix A.1
LANGUAGES = "cs de es et fi fr gu hi kk lt lv ro ru tr zh".split()


class RandomCorpus(NamedTuple):
    """What is made."""

    arch: str = "tiny"
    num_experts: int = 4
    router: str = "target"  # of both halves
    sentences: int = 50  # in the test set of each direction
    num_words: int = 8000  # of the dictionary, without special ones and tags
    train_sentences: int = 20  # in the training set

    @property
    def lang_pairs(self) -> List[str]:
        """Into and from English: 30 directions."""
        return [pair for lang in LANGUAGES for pair in (f"en-{lang}", f"{lang}-en")]


class Made(NamedTuple):
    """Where it is."""

    data: str
    path: str


def make_corpus(corpus: RandomCorpus, folder: Path) -> Made:
    """Write binarized data and a checkpoint into folder."""
    binarize(corpus, folder)
    made = Made(str(folder / "data-bin"), str(folder / "random.pt"))
    checkpoint = train_one_update(corpus, made.data, folder)
    sharpen(checkpoint, made.path)
    checkpoint.unlink()
    return made


def binarize(corpus: RandomCorpus, folder: Path) -> None:
    """Write random text, whose sentences have 4 to 60 words and 23 on average, and binarize it."""
    draw = random.Random(1)
    words = [f"w{number}" for number in range(corpus.num_words)]
    sizes = {"train": corpus.train_sentences, "valid": 1, "test": corpus.sentences}
    dictionary = str(folder / "dict.txt")
    Path(dictionary).write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
    for lang in LANGUAGES:
        flags = ["-s", "en", "-t", lang, "--destdir", str(folder / "data-bin")]
        flags += ["--srcdict", dictionary, "--tgtdict", dictionary]
        for split, number in sizes.items():
            prefix = str(folder / f"{split}.en-{lang}")
            flags += [f"--{split}pref", prefix]
            for side in ("en", lang):
                lengths = (round(draw.lognormvariate(3.0, 0.5)) for _ in range(number))
                lines = (draw.choices(words, k=min(60, max(4, length))) for length in lengths)
                text = "".join(" ".join(line) + "\n" for line in lines)
                Path(f"{prefix}.{side}").write_text(text, encoding="utf-8")
        preprocess.main(options.get_preprocessing_parser().parse_args(flags))


def train_one_update(corpus: RandomCorpus, data: str, folder: Path) -> Path:
    """Let fairseq-train write a checkpoint after one update."""
    command = f"""
        {sys.executable} -W ignore -m fairseq_cli.train {data} --user-dir {user_dir()}
        --task translation_task_moe --lang-pairs {",".join(corpus.lang_pairs)}
        --encoder-langtok tgt --arch transformer_task_moe_{corpus.arch}
        --moe-expert-count {corpus.num_experts} --encoder-moe-router {corpus.router}
        --decoder-moe-router {corpus.router} --criterion moe_label_smoothed_cross_entropy
        --optimizer sgd --lr 0.0001 --max-tokens 100 --max-update 1 --seed 1 --cpu --num-workers 0
        --no-epoch-checkpoints --no-save-optimizer-state --disable-validation --save-dir {folder}
    """.split()
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        refuse(f"no model of random weights: fairseq-train ended with {last}")
    return folder / "checkpoint_last.pt"


def sharpen(checkpoint: Path, path: str) -> None:
    """Write a checkpoint whose attention chooses, and whose decoder heeds the source.

    With fresh weights attention is an average, and many sentences get the same translation:
    mixed-up ones would not show. So 50 of 50 differ in the tiny architecture, 41 in base.
    """
    # in memory are only the weights that change
    saved = torch.load(checkpoint, weights_only=True, mmap=True)
    for name, weight in saved["model"].items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight *= 3
        elif name.endswith(("encoder_attn.v_proj.weight", "encoder_attn.out_proj.weight")):
            weight *= 4
    torch.save(saved, path)
