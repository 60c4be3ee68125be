"""Write the sentence pairs of gettext catalogs (.mo), one message per line."""

import argparse
import gettext
import html
import re
import struct
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths

from .corpus import languages_of
from .text_files import refuse_existing, write_lines
from .yaml_settings import check_pair

BRACKETED_ACCELERATOR = re.compile(r"\s*\([_~&]\w\)")  # as in Chinese: 打印(_P)
ACCELERATOR = re.compile(r"[~_&](?=\w)")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def read_catalog(path: Path) -> Iterator[Tuple[str, str]]:
    """Yield (English, translation) of a .mo file, with the first of plural forms.

    Refuses another file. Catalogs contain no messages that are not translated.
    """
    try:
        with path.open("rb") as stream:
            # gettext has no public way to list a catalog
            catalog = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
    except (OSError, LookupError, ValueError, struct.error) as error:
        refuse(f"{path}: not a gettext catalog (.mo): {error}")
    for key, translation in catalog.items():
        if isinstance(key, tuple):
            key, plural_form = key
            if plural_form != 0:
                continue
        if key:  # the empty key has the catalog's header
            yield key.rsplit("\x04", 1)[-1], translation  # without the message's context


def plain_text(text: str) -> str:
    """Remove markup, keyboard accelerators and line ends."""
    text = html.unescape(TAG.sub("", BRACKETED_ACCELERATOR.sub("", text)))
    if len(ACCELERATOR.findall(text)) == 1:  # several occur in identifiers: use_default_size
        text = ACCELERATOR.sub("", text)
    return " ".join(text.split())


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", help="English and the catalogs' language, as in en-pt_BR")
    parser.add_argument("catalogs", nargs="+", type=Path, metavar="FILE.mo",
                        help="compile a .po file with msgfmt first")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="gets PAIR.en and PAIR.LANG: en-pt_BR.en and en-pt_BR.pt_BR")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    check_paths(args)
    check_pair(args.pair, "PAIR", "expected a pair of languages, as en-pt_BR")
    outputs = [args.out / f"{args.pair}.{language}" for language in languages_of(args.pair)]
    refuse_existing(outputs, args.overwrite)
    entries = (entry for path in args.catalogs for entry in read_catalog(path))
    plain = ((plain_text(english), plain_text(translation)) for english, translation in entries)
    pairs = [pair for pair in plain if all(pair)]
    if not pairs:
        refuse(f"{args.catalogs[0]}: no translations in the catalogs")
    for path, side in zip(outputs, zip(*pairs, strict=True), strict=True):
        write_lines(path, side)
    print(f"{outputs[0]}, {outputs[1]}: {len(pairs)} lines")


if __name__ == "__main__":
    with command():
        main()
