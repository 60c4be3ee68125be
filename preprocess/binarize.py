"""Encode parallel text with SentencePiece and binarize it with fairseq-preprocess.

TEXT holds `{train,valid,test}.en-de.{en,de}`, or `{valid,test}/en-de.{en,de}` as preprocess.fetch
writes them. DATA gets fairseq's files, and one dictionary under every language's name. The data of
a pair serves both of its directions.

With --shards N, DATA has the folders shard00, shard01, ... (see encode.py); give fairseq all of
them, joined by colons.

The intermediate files are in DATA.work, and an interrupted run continues from them.
"""

import argparse
import logging
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths

from .chunks import ProcessingOptions
from .corpus import languages_of, text_files
from .encode import (
    DataLayout,
    encode_pair,
    load_processor,
    present_splits,
    shards_per_pair,
)
from .pool import worker_pool
from .stages import run_stage
from .text_files import count_lines, refuse_existing, refusing_write_errors
from .yaml_settings import check_pair

BYTES_PER_WORKER = 1 << 20  # a smaller file is not worth a process of fairseq-preprocess


def check_vocabulary(model: Path, dictionary: Path) -> None:
    """Refuse a broken SentencePiece model or dictionary before any work."""
    from fairseq_taskmoe.data.dictionary_file import read_dictionary  # imports fairseq, in seconds

    load_processor(model)
    read_dictionary(str(dictionary))


def build_data(layout: DataLayout, data: Path, workers: int) -> None:
    """Binarize encoded text; data appears under its name when all pairs are in it."""
    expected = []
    for shard in layout.shards():
        for pair in layout.pairs:
            splits = layout.splits(pair, shard)
            if splits:
                expected += binarize_shard(layout, shard, pair, splits, workers)
    for path in list(layout.binarized().rglob("*")):  # of a pair that an earlier run had
        if path.is_file() and path not in expected and not path.name.startswith("dict."):
            path.unlink()
    if data.exists():
        shutil.rmtree(data)
    layout.binarized().rename(data)


def binarize_shard(
    layout: DataLayout, shard: str, pair: str, splits: Sequence[str], workers: int
) -> List[Path]:
    """Binarize the text of a pair in a shard, unless it is done, and return its files."""
    encoded, folder = layout.encoded(shard), layout.binarized(shard)
    outputs = [
        folder / f"{path.name}.{kind}"
        for split in splits
        for path in text_files(encoded, split, pair)
        for kind in ("bin", "idx")
    ]
    run_stage(
        layout.stamp("binarize", shard, pair),
        partial(binarize_pair, encoded, splits, pair, layout.dictionary, folder, workers),
        settings={"shard": shard, "shards": layout.num_shards},
        # the stamps change with the encoded text, which is thus not read again for its hash
        inputs=[layout.dictionary, *(layout.stamp("encode", split, pair) for split in splits)],
        outputs=outputs,
    )
    return outputs


def binarize_pair(
    encoded: Path, splits: Sequence[str], pair: str, dictionary: Path, data: Path, workers: int
) -> Dict[str, Any]:
    """Run fairseq-preprocess for one pair, check that no line is missing, and return counts."""
    # imported here, as it takes seconds: after the arguments have been checked
    from fairseq import options
    from fairseq.data.indexed_dataset import MMapIndexedDataset
    from fairseq_cli import preprocess  # type: ignore[import-untyped]

    from fairseq_taskmoe import register  # noqa: F401 (repairs data of more than 2 GiB)

    source, target = languages_of(pair)
    sizes = [path.stat().st_size for split in splits for path in text_files(encoded, split, pair)]
    workers = min(workers, 1 + max(sizes) // BYTES_PER_WORKER)
    # not --joined-dictionary: with it fairseq refuses a language whose dictionary is there already
    arguments = ["-s", source, "-t", target, "--destdir", str(data), "--workers", str(workers)]
    arguments += ["--srcdict", str(dictionary), "--tgtdict", str(dictionary)]
    for split in splits:
        arguments += [f"--{split}pref", str(encoded / f"{split}.{pair}")]
    for leftover in data.glob(f"*.{pair}.*"):  # of a killed run
        leftover.unlink()
    with refusing_write_errors(data), no_log_file(data):
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    counts: Dict[str, Any] = {}
    for split in splits:
        for path in text_files(encoded, split, pair):
            stored = MMapIndexedDataset(str(data / path.name))
            lines = count_lines(path)
            if len(stored) != lines:  # fairseq does not report a failed worker
                refuse(f"{data / path.name}: {lines} lines, {len(stored)} stored: disk full?")
            counts[path.name] = {"sentences": len(stored), "tokens": int(stored.sizes.sum())}
            print(f"{path.name}: {len(stored)} sentences, {int(stored.sizes.sum())} tokens")
    return counts


@contextmanager
def no_log_file(data: Path) -> Iterator[None]:
    """Keep fairseq-preprocess from logging to a file in data; each call would add a handler."""
    logger = logging.getLogger("fairseq_cli.preprocess")
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        (data / "preprocess.log").unlink(missing_ok=True)


def binarize(
    text: Path,
    pairs: Sequence[str],
    model: Path,
    dictionary: Path,
    data: Path,
    workers: int = 1,
    num_shards: int = 1,
) -> None:
    """Make DATA from TEXT."""
    work = data.with_name(data.name + ".work")
    for pair in pairs:
        present_splits(text, pair)  # refuses a broken pair before any work
    shards = shards_per_pair(text, pairs, num_shards)
    layout = DataLayout(text, pairs, model, dictionary, work, num_shards, shards)
    with worker_pool(workers) as pool:
        for pair in pairs:
            encode_pair(layout, pair, ProcessingOptions(pool))
    build_data(layout, data, workers)
    shutil.rmtree(work)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="folder with {train,valid,test}.SRC-TGT.{SRC,TGT}")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="SRC-TGT")
    parser.add_argument("--sentencepiece-model", type=Path, required=True)
    parser.add_argument("--dict", type=Path, required=True, help="the dict.txt made with the model")
    parser.add_argument("--out", type=Path, required=True, help="folder DATA to write")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--shards", type=int, default=1, help="shards of the training text")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    check_paths(args)
    for pair in args.pairs:
        check_pair(pair, "--pairs", f"{pair}: expected SRC-TGT, as in en-de")
    model, dictionary = args.sentencepiece_model, args.dict
    for path in (model, dictionary):
        if not path.is_file():
            refuse(f"{path}: no such file")
    for flag, number in (("workers", args.workers), ("shards", args.shards)):
        if number < 1:
            refuse(f"--{flag} {number}: must be 1 or more")
    refuse_existing([args.out], args.overwrite)
    check_vocabulary(model, dictionary)
    binarize(args.text, args.pairs, model, dictionary, args.out, args.workers, args.shards)


if __name__ == "__main__":
    with command():
        main()
