"""Validation and test sets of sacreBLEU, which downloads them and checks their MD5 sums.

sacreBLEU assumes that an archive in its folder was checked and unpacked. So a file `complete` is
written after that, and an archive without it is downloaded again.
"""

import http.client
import logging
import shutil
import socket
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, NoReturn, Tuple

from sacrebleu.dataset import DATASETS
from sacrebleu.dataset.base import Dataset

from fairseq_taskmoe.errors import refuse

from .download import Mirror, failure_reason, is_web_page
from .sources import HeldOut

SOCKET_TIMEOUT_SECONDS = 60.0


@contextmanager
def logging_disabled() -> Iterator[None]:
    """Keep sacreBLEU from logging errors that this package reports in one line."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def held_out_pairs(
    held_out: HeldOut, raw: Path, mirror: Mirror, languages: Tuple[str, str]
) -> Iterator[Tuple[bytes, bytes]]:
    """Yield the sentence pairs of a set, with the sides in the order of languages."""
    name, direction = held_out.name, held_out.direction
    dataset = relocated(DATASETS[name], raw / "archives" / "sacrebleu", mirror)
    url = addresses(dataset)[0]
    download(dataset, url)
    try:
        dataset.process_to_text(direction)
    except FileNotFoundError as error:
        refuse_damaged(dataset, f"{url}: it has no {Path(error.filename).name}")
    sources = list(dataset.source(direction))
    references = [reference[0].strip() for reference in dataset.references(direction)]
    if len(sources) != len(references):
        refuse_damaged(
            dataset,
            f"{url}: {direction} has {len(sources)} source sentences and "
            f"{len(references)} references",
        )
    in_order = direction == "-".join(languages)
    for source, reference in zip(sources, references, strict=True):
        first, second = (source, reference) if in_order else (reference, source)
        yield first.encode(), second.encode()


def addresses(dataset: Dataset) -> List[str]:
    return dataset.data or []


def relocated(original: Dataset, folder: Path, mirror: Mirror) -> Dataset:
    """Return sacreBLEU's data set with its files in folder and its addresses on the mirror."""
    sums = zip(addresses(original), original.md5 or [], strict=True)
    dataset = type(original)(
        original.name,
        data=[mirror.url_of(url) for url in addresses(original)],
        md5=[mirror.expected(url, {}).get("md5", md5) for url, md5 in sums],
        langpairs=original.langpairs,
        **original.kwargs,
    )
    # $SACREBLEU would have to be set before sacreBLEU is imported
    dataset._outdir = str(folder / original.name.replace("/", "_"))
    dataset._rawdir = str(folder / original.name.replace("/", "_") / "raw")
    return dataset


def download(dataset: Dataset, url: str) -> None:
    folder = Path(dataset._outdir)
    complete = folder / "complete"
    if complete.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_SECONDS)  # urllib would wait forever for an answer
    try:
        dataset.maybe_download()
    except SystemExit:  # sacreBLEU exits on a wrong checksum
        web_page = any(path.is_file() and is_web_page(path) for path in (folder / "raw").glob("*"))
        problem = "the answer is a web page, not the archive" if web_page else "wrong checksum"
        refuse_damaged(dataset, f"{url}: {problem}")
    except (OSError, http.client.HTTPException, tarfile.TarError) as error:
        refuse_damaged(dataset, f"{url}: {failure_reason(error)}")
    finally:
        socket.setdefaulttimeout(previous_timeout)
    complete.touch()


def refuse_damaged(dataset: Dataset, message: str) -> NoReturn:
    """Refuse a download, so that the next run repeats it."""
    shutil.rmtree(dataset._outdir, ignore_errors=True)
    refuse(message)
