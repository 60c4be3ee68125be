"""A model of Hugging Face as a dense checkpoint of transformer_task_moe, with its dictionary."""

import shutil
from pathlib import Path
from typing import Sequence

from ..checkpoint.convert_shards import write
from ..data.languages import NUM_SPECIAL
from ..data.task_table import TaskTable
from ..files import new_folder
from ..metrics.lang_pairs import languages_of
from .dense import DenseModel, checkpoint_of
from .hf_folder import read_folder
from .hf_models import m2m100_model, marian_model

MODELS = {"m2m_100": m2m100_model, "marian": marian_model}  # by model_type of config.json


def import_hf(path: str, lang_pairs: Sequence[str], out: str) -> DenseModel:
    """Write the model of a folder to the new folder out; return it.

    out gets model.pt, dict.txt, dict.LANG.txt of the languages of lang_pairs, and spm.model.
    """
    folder = read_folder(path, list(MODELS))
    dense = MODELS[folder.config.model_type](folder, list(lang_pairs))
    dense.check_weights(path)
    table = TaskTable.from_pairs(dense.lang_pairs)
    checkpoint = checkpoint_of(
        dense.cfg, dense.state, dense.words, dense.word_counts, dense.tags, table
    )
    lines = "".join(f"{word} 1\n" for word in dense.words[NUM_SPECIAL:])
    with new_folder(out) as part:
        write(checkpoint, str(part / "model.pt"))
        for name in ("", *(f"{lang}." for lang in languages_of(dense.lang_pairs))):
            Path(part, f"dict.{name}txt").write_text(lines, encoding="utf-8", newline="")
        if folder.sentencepiece_model:
            shutil.copyfile(folder.sentencepiece_model, part / "spm.model")
            target = folder.sentencepiece_model.with_name("target.spm")
            if target.is_file():  # of Marian, for the texts of training
                shutil.copyfile(target, part / "target.spm")
    return dense
