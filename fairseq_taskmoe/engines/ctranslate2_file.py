"""The sizes of a model of CTranslate2, read without its weights, and checks of them.

CTranslate2 itself fails on wrong sizes only during a translation.
"""

import json
import struct
from pathlib import Path
from typing import BinaryIO, Dict, Tuple

Shapes = Dict[str, Tuple[int, ...]]
PAD = "<pad>"


def check_vocabulary(folder: str, shapes: Shapes) -> None:
    """Raise ValueError unless the vocabulary has as many words as embeddings, and padding."""
    words = json.loads((Path(folder) / "shared_vocabulary.json").read_text(encoding="utf-8"))
    rows = [shapes["encoder/embeddings_0/weight"][0], shapes["decoder/embeddings/weight"][0]]
    if not isinstance(words, list) or rows != [len(words)] * 2 or PAD not in words:
        raise ValueError("the vocabulary does not match the model")


def num_positions(shapes: Shapes) -> Tuple[int, int]:
    """Return the maximum lengths of sources and targets, with tags and end of sentence."""
    source, target = (
        shapes[f"{stack}/position_encodings/encodings"][0] for stack in ("encoder", "decoder")
    )
    return source, target


def read_shapes(folder: str) -> Shapes:
    """Return the shapes of the tensors in model.bin, by name. Raises ValueError."""
    with open(Path(folder) / "model.bin", "rb") as file:
        try:
            return _shapes(file)
        except (struct.error, KeyError) as problem:
            raise ValueError("model.bin is truncated, or not a model of CTranslate2") from problem


def _shapes(file: BinaryIO) -> Shapes:
    """Read the format that ctranslate2.specs.ModelSpec.save writes."""
    shapes: Shapes = {}
    _numbers(file, "I")  # version
    _text(file)  # name of the architecture
    _numbers(file, "I")  # its revision
    for _ in range(*_numbers(file, "I")):
        name = _text(file)
        (rank,) = _numbers(file, "B")
        shapes[name] = _numbers(file, f"{rank}I")
        _numbers(file, "B")  # type
        file.seek(_numbers(file, "I")[0], 1)
    for _ in range(*_numbers(file, "I")):
        alias, name = _text(file), _text(file)
        shapes[alias] = shapes[name]
    return shapes


def _numbers(file: BinaryIO, format: str) -> Tuple[int, ...]:
    return struct.unpack(f"={format}", file.read(struct.calcsize(f"={format}")))


def _text(file: BinaryIO) -> str:
    return file.read(*_numbers(file, "H")).rstrip(b"\0").decode()
