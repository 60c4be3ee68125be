"""Binarized test sets of random words, and checkpoints of small models, to measure routing on."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder
from helpers import LANG_PAIRS, make_config, make_model, make_task
from omegaconf import OmegaConf
from torch import Tensor

LANGS = ("de", "en", "fr")
NUM_SENTENCES = 11


def random_set(num_sentences: int = NUM_SENTENCES) -> List[Tensor]:
    """Return sentences of 1 to 14 random words."""
    lengths = torch.randint(1, 15, (num_sentences,)).tolist()
    return [torch.randint(4, 34, (length,)) for length in lengths]


def write_data(folder: Path, sets: Optional[Dict[str, Sequence[Sequence[Tensor]]]] = None) -> str:
    """Write test sets, by pair the sentences of both sides, without their ends.

    By default: de-en for both directions, en-fr and fr-de for one, with nothing in common.
    """
    torch.manual_seed(1)
    dictionary = Dictionary()
    for word in range(30):
        dictionary.add_symbol(f"w{word}")
    for lang in LANGS:
        dictionary.save(str(folder / f"dict.{lang}.txt"))
    if sets is None:
        sets = {pair: (random_set(), random_set()) for pair in ("de-en", "en-fr", "fr-de")}
    for pair, sides in sets.items():
        for lang, sentences in zip(pair.split("-"), sides, strict=True):
            prefix = str(folder / f"test.{pair}.{lang}")
            builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
            for words in sentences:
                builder.add_item(torch.cat([words, torch.tensor([2])]).int())
            builder.finalize(f"{prefix}.idx")
    return str(folder)


def write_checkpoint(
    path: Path, lang_pairs: Sequence[str] = LANG_PAIRS, tags: bool = False, **overrides: Any
) -> str:
    """Write a checkpoint of a small model; with tags, sources and targets begin with one."""
    settings = {"encoder_langtok": "tgt", "decoder_langtok": True} if tags else {}
    task = make_task(lang_pairs, **settings)
    cfg = OmegaConf.to_container(make_config(**overrides), enum_to_str=True)
    state = {
        "args": None,
        "cfg": {
            "model": {**cfg, "_name": "transformer_task_moe"},
            "task": {"_name": "translation_task_moe", "max_source_positions": 64,
                     "max_target_positions": 64},
        },
        "model": make_model(task, **overrides).state_dict(),
        "task_state": task.state_dict(),
        "optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {},
                               "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 0, "iterations_in_epoch": 0}},
    }
    torch.save(state, path)
    return str(path)


def both(router: str) -> Dict[str, str]:
    """Return the settings of a model with the same router in both stacks."""
    return {"encoder_moe_router": router, "decoder_moe_router": router}
