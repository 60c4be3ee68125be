"""Sentence pairs of gettext catalogs: of programs, and of LibreOffice's user interface."""

import struct
from pathlib import Path
from typing import Iterable, Iterator

from examples.interface_text import plain_text, read_catalog
from examples.software15.languages import Language
from examples.software15.pairs import Pair
from fairseq_taskmoe.errors import refuse

SOURCES = {
    "programs": "usr/share/locale/{}/LC_MESSAGES/*.mo",
    "office": "usr/lib/libreoffice/program/resource/{}/LC_MESSAGES/*.mo",
}
# names of countries, languages and currencies, by the thousand, are no sentences
LEFT_OUT = "iso_"


def pairs_of_catalogs(packages: Iterable[Path], source: str, language: Language) -> Iterator[Pair]:
    """Yield the pairs of all catalogs of a source in unpacked packages, in a fixed order.

    The application of a pair is the catalog's name: office/chart.
    """
    for package in packages:
        for path in sorted(package.glob(SOURCES[source].format(language.catalog))):
            if path.name.startswith(LEFT_OUT):
                continue
            try:
                entries = list(read_catalog(path))
            except (OSError, LookupError, ValueError, struct.error) as error:
                refuse(f"{path}: no gettext catalog ({error})")
            for english, translation in entries:
                yield Pair(f"{source}/{path.stem}", plain_text(english), plain_text(translation))
