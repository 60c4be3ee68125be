"""Check that all libraries can handle the names of files."""

import argparse
import os
from typing import Any

from .errors import refuse


def check_paths(args: argparse.Namespace) -> None:
    """Refuse file names that are not UTF-8 in arguments.

    Python opens such files, but torch, SentencePiece and CTranslate2 do not, and results files
    cannot contain their names, so the command would fail late.
    """
    for value in vars(args).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, (str, os.PathLike)):
                check_path(each)


def check_path(path: Any) -> None:
    """Refuse a file whose name, or that of a folder above it, is not UTF-8."""
    real_path = os.path.realpath(path)
    try:
        real_path.encode()
    except UnicodeEncodeError:
        name = os.fsencode(real_path).decode(errors="backslashreplace")
        refuse(f"{name}: its name, or that of a folder above it, has bytes that are not UTF-8; "
               "rename it")
