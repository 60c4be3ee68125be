"""Reading files of routing statistics: how much of its text each direction sent to each expert.

P language pairs, E experts.
"""

import re
import zipfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple, Union

import numpy as np

from ..errors import refuse

LayerName = Tuple[str, int]  # stack, and index of the layer from 0
NAMES = re.compile(r"(encoder|decoder)\.layers\.(\d+)|about")


class RoutingShares(NamedTuple):
    """The share of each direction's choices that each expert received."""

    lang_pairs: List[str]  # P
    # encoder first; each (P, E), with rows that sum to 1, or to 0 if nothing of a direction was
    # routed
    layers: Dict[LayerName, np.ndarray]
    about: Dict[str, str]  # how they were measured; empty if the file does not record it


def load_shares(path: Union[str, Path]) -> RoutingShares:
    """Read an .npz with lang_pairs (P,) and encoder.layers.{i}, decoder.layers.{i} (P, E).

    Names and values in `about` (N, 2) are read too; other arrays are ignored. Refuses a file of
    another form.
    """
    lang_pairs, arrays = read_arrays(path, NAMES)
    about = arrays.pop("about", np.empty((0, 2), dtype=str))
    if about.dtype.kind != "U" or about.ndim != 2 or about.shape[1] != 2:
        refuse(f"{path}: about is not a list of names and values")
    if not arrays or not all(array.size for array in (lang_pairs, *arrays.values())):
        refuse(f"{path}: nothing to draw, it has no MoE layers, language pairs or experts")
    layers = {}
    for name, shares in arrays.items():
        if shares.dtype.kind != "f" or shares.ndim != 2 or len(shares) != len(lang_pairs):
            refuse(f"{path}: {name} is not an array of {len(lang_pairs)} rows of shares")
        totals = shares.sum(axis=1, dtype=np.float64)
        # isclose is false for NaN, so that NaN is refused too
        if (shares < 0).any() or not (np.isclose(totals, 1, atol=1e-3) | (totals == 0)).all():
            refuse(f"{path}: {name} has rows that are not shares summing to 1")
        stack, _, index = name.split(".")
        layers[stack, int(index)] = shares
    return RoutingShares(lang_pairs.tolist(), encoder_first(layers), dict(about.tolist()))


def encoder_first(layers: Dict[LayerName, np.ndarray]) -> Dict[LayerName, np.ndarray]:
    """Return the layers with those of the encoder first, each stack by ascending index."""
    return {name: layers[name] for name in sorted(layers, key=lambda n: (n[0] != "encoder", n[1]))}


def read_arrays(
    path: Union[str, Path], names: re.Pattern[str]
) -> Tuple[np.ndarray, Dict[str, np.ndarray]]:
    """Return lang_pairs (P,) of a routing file, and its arrays with these names.

    Refuses a file of another form. The caller checks the contents of the arrays.
    """
    try:
        with zipfile.ZipFile(path):  # np.load would call every other file a pickle
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {
                name: archive[name]
                for name in archive.files
                if name == "lang_pairs" or names.fullmatch(name)
            }
    except OSError as error:
        refuse(f"cannot read {path}: {error.strerror or error}")
    # a damaged archive, or one of Python objects, which must not be unpickled; zipfile, zlib and
    # numpy raise many kinds of exceptions for damage, tokenize.TokenError among them
    except Exception as error:
        refuse(f"{path} is not a routing file: {' '.join(str(error).split())}")

    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy returns other members as bytes
            refuse(f"{path} is not a routing file: {name} is not an array")
    lang_pairs = arrays.pop("lang_pairs", None)
    if lang_pairs is None or lang_pairs.ndim != 1 or lang_pairs.dtype.kind != "U":
        refuse(f"{path} is not a routing file: it has no list of strings 'lang_pairs'")
    return lang_pairs, arrays
