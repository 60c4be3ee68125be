"""Reading a folder of Hugging Face: configuration, weights and tokenizer; no code in it runs."""

import json
import os
import pickle
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import refuse
from ..piece_model import NoPieceModel, load_pieces
from ..read_files import read_json

SENTENCEPIECE = ("sentencepiece.bpe.model", "spm.model", "source.spm")
# its files, of which a class needs some
TOKENIZER = ", ".join((
    "tokenizer_config.json", "tokenizer.json", "vocab.json", "special_tokens_map.json",
    "added_tokens.json", *SENTENCEPIECE, "target.spm",
))
FORMATS = ("model.safetensors", "pytorch_model.bin")  # and NAME.index.json, if there are several


class Folder(NamedTuple):
    """The parts of a model's folder."""

    path: str
    config: Any  # of transformers, with its defaults
    tokenizer: Any  # of transformers
    weights: Dict[str, Tensor]
    sentencepiece_model: Optional[Path]


def read_folder(path: str, model_types: List[str]) -> Folder:
    """Return the parts of a folder, refusing one that is incomplete or of another kind."""
    if not os.path.isfile(os.path.join(path, "config.json")):
        refuse(f"{path}: no folder of Hugging Face, it has no config.json")
    content = read_json(os.path.join(path, "config.json"), "configuration of a model")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in model_types:
        refuse(f"{path}/config.json: model_type {ascii(kind)[:64]}; choose a model of "
               f"{', '.join(model_types)}")
    safe = {"local_files_only": True, "trust_remote_code": False}
    config = _try(path, "config.json",
                  lambda: transformers.AutoConfig.from_pretrained(path, **safe))
    tokenizer = _try(path, f"tokenizer ({TOKENIZER})",
                     lambda: transformers.AutoTokenizer.from_pretrained(path, **safe))
    found = [Path(path, name) for name in SENTENCEPIECE if Path(path, name).is_file()]
    for file in found[:1]:
        try:
            load_pieces(file)
        except (NoPieceModel, OSError) as problem:
            refuse(str(problem))
    return Folder(path, config, tokenizer, read_weights(path), found[0] if found else None)


def _try(path: str, part: str, load: Callable[[], Any]) -> Any:
    """Return what is loaded; of invalid files transformers complains in a dozen ways."""
    try:
        return load()
    except Exception as problem:
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        refuse(f"{path}: {part} not loaded: {ascii(reason)[1:-1][:200]}")


def read_weights(path: str) -> Dict[str, Tensor]:
    """Return the weights of a folder by name, memory-mapped."""
    for name in FORMATS:
        index = Path(path, f"{name}.index.json")
        if Path(path, name).is_file():
            return _read_file(Path(path, name))
        if index.is_file():
            content = read_json(index, "list of files of weights")
            files = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(files, dict):
                refuse(f"{index}: no list of files of weights")
            weights: Dict[str, Tensor] = {}
            for file in sorted(set(map(str, files.values()))):
                if Path(file).name != file or not Path(path, file).is_file():
                    refuse(f"{index}: names {ascii(file)[:64]}, which is not in the folder")
                weights.update(_read_file(Path(path, file)))
            return weights
    refuse(f"{path}: has neither {' nor '.join(FORMATS)}")


def _read_file(path: Path) -> Dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        refuse(f"{path}: not loaded, since it holds more than plain weights")
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, EOFError,
            json.JSONDecodeError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        refuse(f"{path}: truncated, or no weights: {reason[:200]}")
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        refuse(f"{path}: not a table of names and tensors")
    return weights
