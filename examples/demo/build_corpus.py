"""Build the demo's corpus from LibreOffice's translation catalogs.

The repository contains the result, corpus/demo.tsv.xz. The packages are unpacked without root::

    for language in de ru zh-cn; do
        apt-get download libreoffice-l10n-$language
        dpkg-deb -x libreoffice-l10n-${language}_*.deb unpacked
    done
    python examples/demo/build_corpus.py --unpacked unpacked --catalogs de ru zh=zh_CN \
        --out examples/demo/corpus/demo.tsv.xz

The table has a row for each English string and a column for each language; cells may be empty.
"""

import argparse
import lzma
import re
import sys
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # examples/ is not installed

from examples import interface_text  # noqa: E402
from examples.interface_text import most_frequent, plain_text, read_catalog  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402

PLACEHOLDER = re.compile(r"%\w+|\$\w+|\$\(\w+\)|\{\w*\}|#\w+#|\[\w+\]|\\n")
LEFTOVER_MARKUP = re.compile(r"[<>_~\\|]")


def rejection(english: str, translation: str, language: str) -> Optional[str]:
    """Return the name of the filter that rejects a pair, or None."""
    reason = interface_text.rejection(english, translation, language)
    if reason:
        return reason
    if PLACEHOLDER.search(english) or PLACEHOLDER.search(translation):
        return "placeholder"
    if LEFTOVER_MARKUP.search(english) or LEFTOVER_MARKUP.search(translation):
        return "markup"
    return None


def translations(folder: Path, language: str) -> Dict[str, str]:
    """Return the most frequent translation of every English string that passes the filters."""
    seen: Dict[str, Counter] = defaultdict(Counter)
    rejected: Counter = Counter()
    catalogs = sorted(folder.glob("LC_MESSAGES/*.mo"))
    for english, translation in chain.from_iterable(map(read_catalog, catalogs)):
        english, translation = plain_text(english), plain_text(translation)
        reason = rejection(english, translation, language)
        if reason:
            rejected[reason] += 1
        else:
            seen[english][translation] += 1
    counts = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    print(f"{language}: {len(seen)} strings; rejected: {counts}", file=sys.stderr)
    return {english: most_frequent(votes) for english, votes in seen.items()}


def write_corpus(columns: Dict[str, Dict[str, str]], path: Path) -> int:
    """Write the table with its header; return the number of rows."""
    keys = sorted(set().union(*columns.values()))
    rows = [["en", *columns]]
    rows += [[key, *(column.get(key, "") for column in columns.values())] for key in keys]
    table = "".join("\t".join(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(table.encode(), preset=9 | lzma.PRESET_EXTREME))
    return len(keys)


def parse_catalog(text: str) -> Tuple[str, str]:
    """Parse LANGUAGE or LANGUAGE=CATALOG."""
    language, _, catalog = text.partition("=")
    return language, catalog or language


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unpacked", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument(
        "--catalogs", nargs="+", required=True, metavar="LANGUAGE[=CATALOG]",
        help="language codes, with the name of the catalog's folder if it differs: zh=zh_CN",
    )
    parser.add_argument("--out", type=Path, required=True, help="table to write (.tsv.xz)")
    args = parser.parse_args(argv)
    resources = args.unpacked / "usr/lib/libreoffice/program/resource"
    catalogs: List[Tuple[str, str]] = [parse_catalog(text) for text in args.catalogs]
    columns = {
        language: translations(resources / catalog, language) for language, catalog in catalogs
    }
    rows = write_corpus(columns, args.out)
    print(f"{args.out}: {rows} rows, {args.out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    with command():
        main()
