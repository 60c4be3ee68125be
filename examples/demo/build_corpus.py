"""Build the demo's corpus from LibreOffice's translation catalogs.

Needed only to make the corpus anew: corpus/demo.tsv.xz ships with the repository. The packages
are unpacked without root::

    for language in de ru zh-cn; do
        apt-get download libreoffice-l10n-$language
        dpkg-deb -x libreoffice-l10n-${language}_*.deb unpacked
    done
    python examples/demo/build_corpus.py --unpacked unpacked --catalogs de ru zh=zh_CN \
        --out examples/demo/corpus/demo.tsv.xz

One row an English string, one column a language, an empty cell where a language lacks it.
"""

import argparse
import gettext
import lzma
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

MAX_WORDS = 80
MIN_SCRIPT_SHARE = 0.4
# the name that Unicode gives to a language's letters; languages in Latin script are not checked
SCRIPT_NAMES = {
    "ru": "CYRILLIC",
    "kk": "CYRILLIC",
    "hi": "DEVANAGARI",
    "gu": "GUJARATI",
    "zh": "CJK",
}
# characters of the translation per English character; only from RATIO_MIN_CHARS up, as short
# strings differ wildly
LENGTH_RATIOS = {"zh": (0.12, 2.5)}
DEFAULT_LENGTH_RATIO = (0.4, 2.5)
RATIO_MIN_CHARS = 20

BRACKETED_ACCELERATOR = re.compile(r"\s*\([_~&]\w\)")  # as Chinese has them: 打印(_P)
ACCELERATOR = re.compile(r"[~_&](?=\w)")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")
PLACEHOLDER = re.compile(r"%\w+|\$\w+|\$\(\w+\)|\{\w*\}|#\w+#|\[\w+\]|\\n")
LEFTOVER_MARKUP = re.compile(r"[<>_~\\|]")


def read_catalogs(folder: Path) -> Iterator[Tuple[str, str]]:
    """Yield (English, translation) of every .mo file below folder, the first of plural forms."""
    for path in sorted(folder.glob("LC_MESSAGES/*.mo")):
        with path.open("rb") as stream:
            # gettext offers look-ups only: the table behind them is the way to list a catalog
            catalog = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
        for key, translation in catalog.items():
            if isinstance(key, tuple):
                key, plural_form = key
                if plural_form != 0:
                    continue
            if key:  # the empty key holds the catalog's header
                yield key.rsplit("\x04", 1)[-1], translation


def plain_text(text: str) -> str:
    """Strip what belongs to the interface and not to the language."""
    text = text.replace("%PRODUCTNAME", "LibreOffice")
    text = TAG.sub("", BRACKETED_ACCELERATOR.sub("", text))
    text = ACCELERATOR.sub("", text, count=1)
    return " ".join(unicodedata.normalize("NFKC", text).split())


def script_share(text: str, script: str) -> float:
    """The share of text's letters that belong to script."""
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").startswith(script) for char in letters)
    return own / max(1, len(letters))


def fold(text: str) -> str:
    """What must differ between a string and its translation."""
    return re.sub(r"\d", "0", text.lower())


def rejection(english: str, translation: str, language: str) -> Optional[str]:
    """Name the filter that this pair fails, or return None."""
    if len(re.findall("[A-Za-z]", english)) < 2 or not translation:
        return "no text"
    if fold(english) == fold(translation):
        return "copy"
    if PLACEHOLDER.search(english) or PLACEHOLDER.search(translation):
        return "placeholder"
    if LEFTOVER_MARKUP.search(english) or LEFTOVER_MARKUP.search(translation):
        return "markup"
    if max(len(english.split()), len(translation.split())) > MAX_WORDS:
        return "too long"
    lowest, highest = LENGTH_RATIOS.get(language, DEFAULT_LENGTH_RATIO)
    if len(english) >= RATIO_MIN_CHARS and not (
        lowest <= len(translation) / len(english) <= highest
    ):
        return "length ratio"
    script = SCRIPT_NAMES.get(language)
    if script and script_share(translation, script) < MIN_SCRIPT_SHARE:
        return "script"
    return None


def translations(folder: Path, language: str) -> Dict[str, str]:
    """Map every English string that passes the filters to its commonest translation."""
    seen: Dict[str, Counter] = defaultdict(Counter)
    rejected: Counter = Counter()
    for english, translation in read_catalogs(folder):
        english, translation = plain_text(english), plain_text(translation)
        reason = rejection(english, translation, language)
        if reason:
            rejected[reason] += 1
        else:
            seen[english][translation] += 1
    counts = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    print(f"{language}: {len(seen)} strings; left out: {counts}", file=sys.stderr)
    # ties go to the first in code point order, so that the corpus is the same on every machine
    return {
        english: min(votes, key=lambda text: (-votes[text], text))
        for english, votes in seen.items()
    }


def write_corpus(columns: Dict[str, Dict[str, str]], path: Path) -> int:
    """Write the table with its header and return its number of rows."""
    keys = sorted(set().union(*columns.values()))
    rows = [["en", *columns]]
    rows += [[key, *(column.get(key, "") for column in columns.values())] for key in keys]
    table = "".join("\t".join(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(table.encode(), preset=9 | lzma.PRESET_EXTREME))
    return len(keys)


def parse_catalog(text: str) -> Tuple[str, str]:
    """Read LANGUAGE or LANGUAGE=CATALOG."""
    language, _, catalog = text.partition("=")
    return language, catalog or language


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unpacked", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument(
        "--catalogs",
        nargs="+",
        required=True,
        metavar="LANGUAGE[=CATALOG]",
        help="language codes, with the catalog's folder where it is called differently: zh=zh_CN",
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
    main()
