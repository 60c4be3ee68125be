"""Import of mtdata, which makes an index on disk, and changes the logging of the process.

https://github.com/thammegowda/mtdata, in the extra [data]. Its index is made at the first import
(half a minute) and kept in $MTDATA or ~/.mtdata.
"""

import fcntl
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

from fairseq_taskmoe.errors import refuse

if TYPE_CHECKING:
    from mtdata.cache import Cache
    from mtdata.entry import Entry


@contextmanager
def logging_disabled() -> Iterator[None]:
    """Keep libraries from logging errors that this package reports in one line."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def load() -> Any:
    """Import mtdata and return the module; refuses if it is not installed."""
    if "mtdata.cache" in sys.modules:
        return sys.modules["mtdata"]
    root_handlers, root_level = logging.root.handlers[:], logging.root.level
    # mtdata's TMX reader cannot read what its call of pigz unpacks
    os.environ["USE_PIGZ"] = "no"
    try:
        import mtdata
    except ImportError:
        refuse("mtdata is not installed: pip install 'fairseq-taskmoe[data]'")
    index: Path = mtdata.cached_index_file
    complete = index.with_suffix(".complete")
    index.parent.mkdir(parents=True, exist_ok=True)
    with logging_disabled(), index.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            # mtdata would fail on an index that a killed process left unfinished
            index.unlink(missing_ok=True)
            print("mtdata makes its index (once, half a minute) ...", file=sys.stderr)
        import mtdata.cache  # noqa: F401  which loads the index
        complete.touch()
    # mtdata configures the root logger
    logging.root.handlers[:], logging.root.level = root_handlers, root_level
    mtdata.pbar_man.enabled = sys.stderr.isatty()
    return mtdata


def index_entry(identifier: str) -> Optional["Entry"]:
    """Return an entry of mtdata's index by its name, such as Statmt-europarl-9-ces-eng."""
    load()
    from mtdata.entry import DatasetId
    from mtdata.index import INDEX

    try:
        key = DatasetId.parse(identifier)
    except Exception:  # mtdata raises no narrower class
        return None
    return INDEX[key] if key in INDEX else None


def three_letters(language: str) -> str:
    """Return the three-letter code of a language: fin for fi."""
    load()
    from mtdata.iso.bcp47 import bcp47

    return bcp47(language).lang


def download_cache(root: Path) -> "Cache":
    """Return mtdata's downloader, which keeps its files in root."""
    load()
    from mtdata.cache import Cache

    return Cache(root)
