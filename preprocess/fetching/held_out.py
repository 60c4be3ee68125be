"""Dev and test sets of sacreBLEU, downloaded by it into RAW/archives and checked by its MD5 sums.

sacreBLEU takes any archive that is there for a whole one that was checked and unpacked; here one
counts only when that has been noted after the fact.
"""

import http.client
import shutil
import socket
import tarfile
from pathlib import Path
from typing import Iterator, List, NoReturn, Tuple

from sacrebleu.dataset import DATASETS
from sacrebleu.dataset.base import Dataset

from fairseq_taskmoe.errors import refuse
from preprocess.fetching.download import Mirror
from preprocess.fetching.sources import HeldOut

SILENCE_SECONDS = 60.0


def held_out_pairs(
    held_out: HeldOut, raw: Path, mirror: Mirror, languages: Tuple[str, str]
) -> Iterator[Tuple[bytes, bytes]]:
    """Yield the sentence pairs of a set with the languages in the order asked for."""
    name, direction = held_out.name, held_out.direction
    dataset = place(DATASETS[name], raw / "archives" / "sacrebleu", mirror)
    url = addresses(dataset)[0]
    download(dataset, url)
    try:
        dataset.process_to_text(direction)
    except FileNotFoundError as error:
        refuse_damaged(dataset, f"{url}: there is no {Path(error.filename).name} in it")
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


def place(original: Dataset, folder: Path, mirror: Mirror) -> Dataset:
    """Return sacreBLEU's data set with its files below folder and its addresses on the mirror."""
    sums = zip(addresses(original), original.md5 or [], strict=True)
    dataset = type(original)(
        original.name,
        data=[mirror.url_of(url) for url in addresses(original)],
        md5=[mirror.expected(url, {}).get("md5", md5) for url, md5 in sums],
        langpairs=original.langpairs,
        **original.kwargs,
    )
    # not $SACREBLEU: that is read once, when sacreBLEU is imported
    dataset._outdir = str(folder / original.name.replace("/", "_"))
    dataset._rawdir = str(folder / original.name.replace("/", "_") / "raw")
    return dataset


def download(dataset: Dataset, url: str) -> None:
    folder = Path(dataset._outdir)
    complete = folder / "complete"
    if complete.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)  # urllib would wait for a silent server for ever
    try:
        dataset.maybe_download()
    except SystemExit:  # sacreBLEU's way to turn a wrong checksum away
        refuse_damaged(dataset, f"{url}: {wrong_content(folder)}")
    except (OSError, http.client.HTTPException, tarfile.TarError) as error:  # as URLError is
        refuse_damaged(dataset, f"{url}: {reason(error)}")
    finally:
        socket.setdefaulttimeout(patience)
    complete.touch()


def refuse_damaged(dataset: Dataset, message: str) -> NoReturn:
    """Refuse what was downloaded, so that the next run gets it anew."""
    shutil.rmtree(dataset._outdir, ignore_errors=True)
    refuse(message)


def wrong_content(folder: Path) -> str:
    for path in (folder / "raw").glob("*"):
        if path.is_file() and path.open("rb").read(100).lstrip().lower().startswith(b"<"):
            return "the answer is a web page, not the archive"
    return "wrong checksum"


def reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off before the end of the file"
    code = getattr(error, "code", None)
    if code is not None:
        return f"the server answered with status {code}"
    return getattr(error, "strerror", None) or str(getattr(error, "reason", error))
