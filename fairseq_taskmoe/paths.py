"""Check that every part of the software can handle the names of files."""

import argparse
import os
from typing import Any

from .errors import refuse


def check_paths(args: argparse.Namespace) -> None:
    """Refuse arguments that are not UTF-8, or that lead to a file whose name is not.

    Python opens such files, but torch, SentencePiece and CTranslate2 do not, and no report can
    name them: the failure would come only when the work is done.
    """
    for value in vars(args).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, (str, os.PathLike)):
                check_path(each)


def check_path(path: Any) -> None:
    """Refuse a file name that is not UTF-8, or that of a folder above the file."""
    place = os.path.realpath(path)
    try:
        place.encode()
    except UnicodeEncodeError:
        name = os.fsencode(place).decode(errors="backslashreplace")
        refuse(f"{name}: its name, or that of a folder above it, has bytes that are not UTF-8; "
               "rename it")
