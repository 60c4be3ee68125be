"""Task-level Mixture-of-Experts for fairseq: importing this registers task, model and criterion."""

import sys
from pathlib import Path

from .version import __version__

__all__ = ["__version__"]

# The `taskmoe` command answers --help before torch and fairseq are loaded: its verbs register.
if Path(sys.argv[0]).stem != "taskmoe":
    from . import register  # noqa: F401
