"""Directions that an interrupted run of `taskmoe routing` has measured, kept for the next one."""

import shutil
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

import numpy as np

from ..errors import refuse
from ..evaluation.evaluate import claim_folder
from ..files import written_together
from .heat_maps import LayerName


class PairUse(NamedTuple):
    """What one direction's text did in each MoE layer: the fields of ExpertUse, one a line."""

    sentences: int
    layers: Dict[LayerName, np.ndarray]  # (5, E)


class Unfinished:
    """A folder with a file for each direction; another run's folder is refused."""

    def __init__(self, folder: Path, run: Dict[str, Any]):
        self.folder = folder
        self.run = run
        if folder.exists():
            claim_folder(str(folder), run)

    def load(self, lang_pair: str) -> Optional[PairUse]:
        """Return what an earlier run measured of a direction, None if it did not."""
        path = self.folder / f"{lang_pair}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tables = dict(arrays)
            sentences = int(tables.pop("sentences"))
            names = {name: name.split(".") for name in tables}
            layers = {(stack, int(i)): tables[name] for name, (stack, i) in names.items()}
        except Exception as error:  # of damage zipfile and numpy complain in a dozen ways
            refuse(f"{path} is damaged, remove it: {' '.join(str(error).split())}")
        return PairUse(sentences, layers)

    def save(self, lang_pair: str, use: PairUse) -> None:
        """Keep what was measured of a direction."""
        claim_folder(str(self.folder), self.run)
        arrays: Dict[str, Any] = {f"{stack}.{i}": table for (stack, i), table in use.layers.items()}
        with written_together([str(self.folder / f"{lang_pair}.npz")]) as (part,):
            with open(part, "wb") as file:
                np.savez(file, sentences=use.sentences, **arrays)

    def remove(self) -> None:
        """Remove the folder, once its directions are in the result."""
        shutil.rmtree(self.folder, ignore_errors=True)
