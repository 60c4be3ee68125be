"""Measurements of an interrupted `taskmoe routing`, which the next run continues."""

import shutil
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

import numpy as np

from ..errors import refuse
from ..evaluation.evaluate import claim_folder
from ..files import written_together
from .shares import LayerName


class PairUse(NamedTuple):
    """The routing of one direction's text in each MoE layer."""

    sentences: int
    layers: Dict[LayerName, np.ndarray]  # (5, E): the fields of ExpertUse


class Unfinished:
    """A folder with one file for each direction; the folder of another run is refused."""

    def __init__(self, folder: Path, run: Dict[str, Any]):
        self.folder = folder
        self.run = run
        if folder.exists():
            claim_folder(str(folder), run)

    def load(self, lang_pair: str) -> Optional[PairUse]:
        """Return an earlier run's measurement of a direction, None if there is none."""
        path = self.folder / f"{lang_pair}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tables = dict(arrays)
            sentences = int(tables.pop("sentences"))
            names = {name: name.split(".") for name in tables}
            layers = {(stack, int(i)): tables[name] for name, (stack, i) in names.items()}
        except Exception as error:  # zipfile and numpy raise many kinds of exceptions for damage
            refuse(f"{path} is damaged, remove it: {' '.join(str(error).split())}")
        return PairUse(sentences, layers)

    def save(self, lang_pair: str, use: PairUse) -> None:
        """Save the measurement of a direction."""
        claim_folder(str(self.folder), self.run)
        arrays: Dict[str, Any] = {f"{stack}.{i}": table for (stack, i), table in use.layers.items()}
        with written_together([str(self.folder / f"{lang_pair}.npz")]) as (part,):
            with open(part, "wb") as file:
                np.savez(file, sentences=use.sentences, **arrays)

    def remove(self) -> None:
        """Remove the folder, after its measurements are in the result."""
        shutil.rmtree(self.folder, ignore_errors=True)
