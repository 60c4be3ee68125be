"""Prepare the data of the paper's WMT experiments: fetch, compare with its counts, preprocess.

    python examples/wmt30/prepare.py --dry-run
    python examples/wmt30/prepare.py --raw runs/wmt30/raw --out runs/wmt30 --workers 16

It can be killed at any moment and started again: finished work is skipped.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # preprocess is not installed

from fairseq_taskmoe.errors import command, refuse  # noqa: E402
from preprocess import run  # noqa: E402
from preprocess.config import load_config  # noqa: E402
from preprocess.corpus import SPLITS  # noqa: E402
from preprocess.fetch import fetch  # noqa: E402
from preprocess.fetching.download import Mirror, SizesByHead, key_of  # noqa: E402
from preprocess.fetching.held_out import DATASETS, addresses  # noqa: E402
from preprocess.fetching.sources import Archive, Sources, read_sources  # noqa: E402


def planned_downloads(sources: Sources, mirror: Mirror) -> Iterator[str]:
    """Yield the lines of a table of all downloads, with size and licence."""
    users: Dict[str, List[str]] = {}
    licences: Dict[str, str] = {}
    by_hand: Dict[str, str] = {}
    for part in sources.parts:
        if isinstance(part.source, Archive):
            keys = [key_of(part.source)]
            if part.source.by_hand and not mirror.address:
                by_hand[keys[0]] = part.source.url
        else:  # sacreBLEU downloads all archives of a set, whatever the direction
            keys = addresses(DATASETS[part.source.name])
        for key in keys:
            users.setdefault(key, []).append(part.stem)
            licences[key] = sources.licences.get(part.dataset, "unknown")
    sizes, total, unknown = SizesByHead(), 0, 0
    yield "MB\tlicence\taddress\tused for"
    for key, parts in users.items():
        address = f"{key}, by hand from {by_hand[key]}" if key in by_hand else mirror.url_of(key)
        size = mirror.expected(key, sources.checksums).get("size")
        if size is None and key not in by_hand:
            size = sizes.size(address)
        total, unknown = total + (size or 0), unknown + (size is None)
        shown = "unknown" if size is None else f"{size / 1e6:.1f}"
        yield f"{shown}\t{licences[key]}\t{address}\t{' '.join(parts)}"
    yield f"{len(users)} archives, {total / 1e9:.1f} GB and {unknown} of unknown size"


def comparison(sources: Sources, numbers: Dict[str, int]) -> Iterator[str]:
    """Yield the lines of a table of the counts and the paper's counts."""
    yield "pair\tsplit\tpaper\there\tdeviation"
    for pair, published in sources.expected.items():
        for split in SPLITS:
            expected = published.get(split)
            if expected is None:
                continue
            parts = [part for part in sources.parts if (part.pair, part.split) == (pair, split)]
            here = sum(numbers[part.stem] for part in parts)
            yield f"{pair}\t{split}\t{expected}\t{here}\t{100 * (here / expected - 1):+.2f} %"


def print_table(lines: Iterator[str]) -> None:
    for line in lines:
        print(line.expandtabs(16), flush=True)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, default=HERE / "sources.yaml")
    parser.add_argument("--corpus", type=Path, default=HERE / "corpus.yaml")
    parser.add_argument("--raw", type=Path, default=Path("runs/wmt30/raw"), help="download folder")
    parser.add_argument("--out", type=Path, default=Path("runs/wmt30"), help="output folder")
    parser.add_argument("--workers", type=int, default=1, help="processes for preprocessing")
    parser.add_argument("--mirror", metavar="URL", help="as in `python -m preprocess.fetch --help`")
    parser.add_argument("--without", nargs="+", default=[], metavar="DATASET",
                        help="training data sets to leave out, in all pairs")
    parser.add_argument("--dry-run", action="store_true",
                        help="only list the downloads, with size and licence")
    args = parser.parse_args(argv)
    if args.workers < 1:  # checked before hours of downloads
        refuse(f"--workers {args.workers}: must be 1 or more")
    sources, config = read_sources(args.sources, tuple(args.without)), load_config(args.corpus)
    in_one = set(config.all_pairs) ^ set(sources.expected)
    if in_one:
        refuse(f"{args.corpus} and {args.sources}: only one of them has the pair {min(in_one)}")
    if args.dry_run:
        print_table(planned_downloads(sources, Mirror(args.mirror)))
        return
    print_table(comparison(sources, fetch(sources, args.raw, args.mirror)))
    folders = ["--raw", str(args.raw), "--out", str(args.out)]
    run.main([str(args.corpus), *folders, "--workers", str(args.workers)])


if __name__ == "__main__":
    with command():
        main()
