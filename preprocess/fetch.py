"""Fetch the text of a corpus: RAW/train/PAIR/DATASET.LANGUAGE and RAW/{valid,test}/PAIR.LANGUAGE.

Training data is at addresses, validation and test sets are sacreBLEU's. A run can be killed at any
moment and started again: RAW/stages records the finished parts.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Tuple

from tqdm import tqdm

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths

from .corpus import SPLITS, languages_of
from .fetching.download import Downloads, Mirror
from .fetching.held_out import held_out_pairs, logging_disabled
from .fetching.read_pairs import BadArchive, RawPair, read_pairs
from .fetching.sources import Archive, Part, Sources, read_sources
from .stages import only_run, run_stage, stage_result
from .text_files import atomic_output


def fetch(sources: Sources, raw: Path, mirror_address: Optional[str] = None) -> Dict[str, int]:
    """Fetch all parts of a corpus into the folder raw; return their numbers of pairs, by stem.

    Refuses files that are not archives, have a wrong checksum, cannot be read, or have sides of
    different length. The parts that are complete by then are kept, and the next call continues.
    """
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with only_run(raw / ".lock"), logging_disabled():
            check_files(sources, raw)
            mirror = Mirror(mirror_address)
            downloads = Downloads(raw, mirror, sources.checksums)
            # before spending hours on the others
            downloads.require_by_hand(
                part.source for part in sources.parts
                if isinstance(part.source, Archive)
                and not all((raw / name).exists() for name in part.files)
            )
            numbers = {}
            for number, part in enumerate(sources.parts, start=1):
                stamp = raw / "stages" / f"{part.stem.replace('/', '.')}.txt"
                run_stage(
                    stamp,
                    partial(fetch_part, part, raw, mirror, downloads),
                    settings=asdict(part.source),
                    inputs=[],
                    outputs=[raw / name for name in part.files],
                )
                kept, dropped = stage_result(stamp)
                numbers[part.stem] = kept
                print(f"[{number}/{len(sources.parts)}] {part.stem}: {kept} sentence pairs, "
                      f"{dropped} with an empty side dropped", file=sys.stderr, flush=True)
    except OSError as error:  # of the disk: errors of the network are refused where they occur
        refuse(f"{error.filename or raw}: {error.strerror or error}")
    return numbers


def check_files(sources: Sources, raw: Path) -> None:
    """Remove unfinished files of a killed run; refuse text that belongs to no part."""
    expected = {name for part in sources.parts for name in part.files}
    for split in SPLITS:
        for path in sorted((raw / split).rglob("*")):
            name = path.relative_to(raw).as_posix()
            if path.name.endswith(".partial"):
                path.unlink()
            elif not path.is_dir() and name not in expected:
                refuse(f"{path} belongs to no data set of the configuration: delete it")


def fetch_part(part: Part, raw: Path, mirror: Mirror, downloads: Downloads) -> Tuple[int, int]:
    """Write the two files of a part, each completely or not at all; return write_pairs' counts."""
    languages = languages_of(part.pair)
    if isinstance(part.source, Archive):
        pairs = read_pairs(downloads.get(part.source), part.source, languages)
    else:
        pairs = held_out_pairs(part.source, raw, mirror, languages)
    try:
        kept, dropped = write_pairs(pairs, raw, part)
    except BadArchive as error:
        assert isinstance(part.source, Archive)
        downloads.refuse_damaged(part.source, f"{part.dataset} of {part.pair}: {error}")
    if kept == 0:
        problem = f"{part.dataset} of {part.pair} has no sentence pairs"
        if isinstance(part.source, Archive):
            downloads.refuse_damaged(part.source, problem)
        refuse(f"{raw / part.stem}: {problem}")
    return kept, dropped


def write_pairs(pairs: Iterator[RawPair], raw: Path, part: Part) -> Tuple[int, int]:
    """Write the pairs whose sides are not empty; return their number, and that of the others.

    Of a validation or test set all are written: scores are compared line by line.
    """
    kept = dropped = 0
    with ExitStack() as stack:
        first, second = (stack.enter_context(atomic_output(raw / name)) for name in part.files)
        for pair in tqdm(pairs, desc=part.stem, unit=" pairs", disable=None, leave=False):
            if part.split == "train" and not (pair[0] and pair[1]):
                dropped += 1
                continue
            first.write(pair[0] + b"\n")
            second.write(pair[1] + b"\n")
            kept += 1
    return kept, dropped


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="YAML, such as examples/wmt30/sources.yaml")
    parser.add_argument("--raw", type=Path, required=True, help="output folder RAW")
    parser.add_argument("--mirror", metavar="URL", help="server with copies: http://HOST/PATH is "
                        "at URL/HOST/PATH; its checksums.json, if any, replaces those of CONFIG")
    parser.add_argument("--without", nargs="+", default=[], metavar="DATASET",
                        help="training data sets to leave out, in all pairs")
    args = parser.parse_args(argv)
    check_paths(args)
    fetch(read_sources(args.config, tuple(args.without)), args.raw, args.mirror)


if __name__ == "__main__":
    with command():
        main()
