"""Task-level Mixture-of-Experts for fairseq.

The names in __all__ are those of api.py, documented there and in docs/python.md. They are imported
when they are first used, so that importing the package is fast.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from .version import __version__

if TYPE_CHECKING:
    from .api import (
        Model,
        Refusal,
        TooLong,
        Translation,
        evaluate,
        extract,
        from_pretrained,
        load,
    )

__all__ = [
    "Model", "Refusal", "TooLong", "Translation", "__version__", "evaluate", "extract",
    "from_pretrained", "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".api", __name__), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


# fairseq imports the folder of --user-dir to register what is in it
if sys.modules.get("fairseq") is not None:
    from . import register  # noqa: F401
