"""The folder that an extraction leaves: model, dictionaries, SentencePiece model, README."""

import os
import shutil
from typing import List, Optional

import torch

from ..errors import refuse
from ..files import new_folder
from .export_fairseq import stock_checkpoint, stock_flags, taskmoe_checkpoint
from .extract_subnet import extract_subnet
from .reading import Checkpoint, read_task_moe_checkpoint

MODEL = "model.pt"
SENTENCEPIECE = "spm.model"


def extract(
    path: str, lang_pair: str, out: str, format: str = "fairseq",
    sentencepiece_model: Optional[str] = None,
) -> None:
    """Write the sub-network of a pair to the new folder out, whole or not at all."""
    if sentencepiece_model and not os.path.isfile(sentencepiece_model):
        refuse(f"--sentencepiece-model {sentencepiece_model}: no such file")
    with new_folder(out) as folder:
        checkpoint = read_task_moe_checkpoint(path)
        subnet = extract_subnet(checkpoint, lang_pair)
        make = {"fairseq": stock_checkpoint, "taskmoe": taskmoe_checkpoint}[format]
        torch.save(make(checkpoint, subnet), folder / MODEL)
        for lang in lang_pair.split("-"):
            with open(folder / f"dict.{lang}.txt", "w", encoding="utf-8") as file:
                file.writelines(dictionary_lines(checkpoint))
        spm = sentencepiece_model or find_sentencepiece_model(checkpoint)
        if spm:
            shutil.copyfile(spm, folder / SENTENCEPIECE)
        text = readme(checkpoint, lang_pair, format, bool(spm))
        (folder / "README.md").write_text(text, encoding="utf-8")


def dictionary_lines(checkpoint: Checkpoint) -> List[str]:
    """Return the lines of the dict.txt that the model was trained with."""
    task_state = checkpoint["task_state"]
    pairs = zip(task_state["words"], task_state["word_counts"], strict=True)
    num_special = 4  # <s> <pad> </s> <unk>, which fairseq adds itself
    return [f"{word} {count}\n" for word, count in list(pairs)[num_special:]]


def find_sentencepiece_model(checkpoint: Checkpoint) -> Optional[str]:
    """Return the SentencePiece model of a run: its --sentencepiece-model, or beside its data."""
    bpe = checkpoint["cfg"].get("bpe")
    named = bpe.get("sentencepiece_model") if isinstance(bpe, dict) else None
    data = str(checkpoint["cfg"]["task"].get("data") or "").split(os.pathsep)[0]
    folders = [data, os.path.dirname(os.path.abspath(data))]
    names = (SENTENCEPIECE, "sentencepiece.bpe.model")
    candidates = [os.path.join(folder, name) for folder in folders for name in names]
    return next((file for file in [named, *candidates] if file and os.path.isfile(file)), None)


def readme(checkpoint: Checkpoint, lang_pair: str, format: str, has_spm: bool) -> str:
    """Return what the folder says of itself, with the exact command that runs it."""
    source, target = lang_pair.split("-")
    if format == "fairseq":
        flags = stock_flags(checkpoint, lang_pair)
        needs = "fairseq alone; the plugin it was trained with is not needed"
    else:
        flags = (
            '--user-dir "$(taskmoe user-dir)" --task translation_task_moe '
            f"-s {source} -t {target}"
        )
        needs = "fairseq and fairseq-taskmoe"
    pieces = (
        f" --bpe sentencepiece --sentencepiece-model {SENTENCEPIECE}" if has_spm else ""
    )
    missing = "" if has_spm else (
        "\nNo SentencePiece model was found beside the data: input and output are pieces.\n"
    )
    return (
        f"# Sub-network {lang_pair}\n\nNeeds {needs}.\n{missing}\n"
        "In this folder, for text on standard input:\n\n"
        f"    fairseq-interactive . --path {MODEL} {flags}{pieces}\n\n"
        "For a binarized test set in the folder DATA:\n\n"
        f"    fairseq-generate DATA --path {MODEL} {flags}{pieces}\n"
    )
