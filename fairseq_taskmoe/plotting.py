"""Figures of matplotlib, without a display and written whole or not at all."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, List, Union

from .errors import refuse

FIGURE_FORMATS = ("png", "pdf")  # of each figure of a folder: for a screen, and for a paper


def can_plot() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def new_figure(**options: Any) -> Any:
    """Return an empty figure of matplotlib; refuses if matplotlib is missing."""
    # importing fairseq sets the root logger to DEBUG, and matplotlib logs much at that level
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        # pyplot would look for a display and keep every figure in memory
        from matplotlib.figure import Figure
    except ImportError:
        refuse("figures need matplotlib: pip install fairseq-taskmoe[plot]")
    return Figure(layout="constrained", **options)


def check_format(figure: Any, out_path: Path, action: str = "cannot draw") -> str:
    """Return the format that the ending of out_path names; refuses an unknown one."""
    formats = figure.canvas.get_supported_filetypes()
    file_format = out_path.suffix[1:].lower()
    if file_format not in formats:
        refuse(f"{action} {out_path}: its ending is none of {', '.join(sorted(formats))}")
    return file_format


def save_figure(figure: Any, out_path: Union[str, Path]) -> None:
    """Write a figure in the format that the ending of out_path names."""
    out_path = Path(out_path)
    file_format = check_format(figure, out_path)
    # the same figure is the same file: matplotlib would write the time into it
    undated = {"metadata": {"CreationDate": None}} if file_format == "pdf" else {}
    temporary = out_path.with_name(f".{out_path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=file_format, dpi=150, **undated)
        os.replace(temporary, out_path)
    except OSError as error:
        refuse(f"cannot write {out_path}: {error.strerror or error}")
    finally:
        temporary.unlink(missing_ok=True)


def save_in_folder(figure: Any, folder: Path, name: str) -> List[str]:
    """Write a figure in all FIGURE_FORMATS; return the names of the files."""
    files = [f"{name}.{ending}" for ending in FIGURE_FORMATS]
    for file in files:
        save_figure(figure, folder / file)
    return files
