"""Encode parallel text with SentencePiece and binarize it with fairseq-preprocess.

TEXT holds `{train,valid,test}.en-de.{en,de}`, or `{valid,test}/en-de.{en,de}` as preprocess.fetch
leaves them; DATA gets fairseq's files and one dictionary, the same under every language's name. One
binarization of a pair serves both of its directions.

With --shards N the training text is dealt out to DATA/shard00, DATA/shard01, ...; fairseq is given
them all, joined by colons, and loads one an epoch. The largest pair is dealt to all of them,
another to as few of the first ones as keep its shards no larger, a small one whole to the first.
fairseq goes through the shards of each pair separately: in every epoch it reads a small pair whole,
and it counts each sentence once for sampling. Validation and test data is in the first.

Work that is interrupted is kept beside DATA and taken up again.
"""

import argparse
import logging
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths
from preprocess.chunks import ProcessingOptions
from preprocess.corpus import SPLITS, given_files, text_files
from preprocess.encode import encode_text, load_processor
from preprocess.pool import worker_pool
from preprocess.stages import run_stage
from preprocess.text_files import (
    count_lines,
    refuse_existing,
    refuse_unequal_lengths,
    refusing_write_errors,
)
from preprocess.yaml_settings import check_pair

# below this size a file is not worth a process of fairseq's
BYTES_PER_WORKER = 1 << 20


class Task(NamedTuple):
    """What is to be binarized, and with what."""

    text: Path
    pairs: Sequence[str]
    model: Path
    dictionary: Path
    work: Path  # folder for what is not finished
    num_shards: int
    train_shards: Dict[str, int]  # number of the first shards that have training text of a pair

    def shards(self) -> List[str]:
        """Return the folders of the shards within encoded and binarized data."""
        if self.num_shards == 1:
            return ["."]
        return [f"shard{number:02}" for number in range(self.num_shards)]

    def splits(self, pair: str, shard: str) -> List[str]:
        """Return a pair's splits in a shard: training text dealt to it, all else in the first."""
        number = self.shards().index(shard)
        return [
            split for split in present_splits(self.text, pair)
            if number < (self.train_shards[pair] if split == "train" else 1)
        ]

    def stamp(self, *parts: str) -> Path:
        """Return the file that says that something is done."""
        return self.work / "stages" / ".".join([part for part in parts if part != "."] + ["txt"])

    def encoded(self, shard: str) -> Path:
        return self.work / f"encoded{self.num_shards}" / shard

    def binarized(self, shard: str = ".") -> Path:
        return self.work / f"binarized{self.num_shards}" / shard


def deal_pairs(text: Path, pairs: Sequence[str], num_shards: int) -> Dict[str, int]:
    """Return to how many shards the training text of each pair is dealt; 1 if it has none.

    The largest pair goes to all num_shards, the others to as few as keep their shards no larger.
    """
    if num_shards == 1:
        return dict.fromkeys(pairs, 1)
    sides = {pair: given_files(text, "train", pair)[0] for pair in pairs}
    lines = {pair: count_lines(side) if side.exists() else 0 for pair, side in sides.items()}
    return numbers_of_shards(lines, num_shards)


def numbers_of_shards(lines: Dict[str, int], num_shards: int) -> Dict[str, int]:
    """As deal_pairs, by the number of lines of each pair."""
    largest_shard = max(1, -(-max(lines.values()) // num_shards))
    return {pair: max(1, -(-number // largest_shard)) for pair, number in lines.items()}


def check_vocabulary(model: Path, dictionary: Path) -> None:
    """Refuse a broken SentencePiece model or dictionary before any work."""
    from fairseq_taskmoe.data.dictionary_file import read_dictionary  # imports fairseq, in seconds

    load_processor(model)
    read_dictionary(str(dictionary))


def present_splits(text: Path, pair: str) -> List[str]:
    """Name the splits that TEXT has of pair, refusing a half or a missing one."""
    found = []
    for split in SPLITS:
        sides = given_files(text, split, pair)
        if all(side.exists() for side in sides):
            found.append(split)
        elif any(side.exists() for side in sides):
            missing = next(side for side in sides if not side.exists())
            refuse(f"{text}: {split}.{pair} has one side only, {missing.name} is missing")
    if not found:
        refuse(f"{text}: no {', '.join(SPLITS)} of {pair}, as in train.{pair}.{pair.split('-')[0]}")
    return found


def encode_pair(task: Task, pair: str, way: ProcessingOptions) -> None:
    """Write all text of a pair in pieces: training text to its shards, the rest to the first."""
    for split in present_splits(task.text, pair):
        sides = given_files(task.text, split, pair)
        num_lines = refuse_unequal_lengths(sides[0], sides[1])
        shards = [shard for shard in task.shards() if split in task.splits(pair, shard)]
        if num_lines < len(shards):
            refuse(f"{sides[0]}: {num_lines} lines, too few for {len(shards)} shard(s)")
        files = [text_files(task.encoded(shard), split, pair) for shard in shards]
        run_stage(
            task.stamp("encode", split, pair),
            partial(
                encode_text,
                sides,
                files,
                task.model,
                task.stamp("encode", split, pair).with_suffix(".journal"),
                way,
            ),
            settings={"shards": len(shards)},
            inputs=[task.model, *sides],
            outputs=[path for shard in files for path in shard],
        )


def binarize_pair(
    encoded: Path, splits: Sequence[str], pair: str, dictionary: Path, data: Path, workers: int
) -> Dict[str, Any]:
    """Call fairseq-preprocess for one pair, check that every line came through, and count."""
    # imported here, as it takes seconds: not before the arguments were found good
    from fairseq import options
    from fairseq.data.indexed_dataset import MMapIndexedDataset
    from fairseq_cli import preprocess  # type: ignore[import-untyped]

    source, target = pair.split("-")
    sizes = [path.stat().st_size for split in splits for path in text_files(encoded, split, pair)]
    workers = min(workers, 1 + max(sizes) // BYTES_PER_WORKER)
    # not --joined-dictionary: with it fairseq refuses a language that another pair brought
    arguments = ["-s", source, "-t", target, "--destdir", str(data), "--workers", str(workers)]
    arguments += ["--srcdict", str(dictionary), "--tgtdict", str(dictionary)]
    for split in splits:
        arguments += [f"--{split}pref", str(encoded / f"{split}.{pair}")]
    for leftover in data.glob(f"*.{pair}.*"):  # of fairseq's workers, if it was killed
        leftover.unlink()
    with refusing_write_errors(data), no_log_file(data):
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    counts: Dict[str, Any] = {}
    for split in splits:
        for path in text_files(encoded, split, pair):
            stored = MMapIndexedDataset(str(data / path.name))
            lines = count_lines(path)
            if len(stored) != lines:  # fairseq says nothing of a worker that failed
                refuse(f"{data / path.name}: {lines} lines, {len(stored)} stored: disk full?")
            counts[path.name] = {"sentences": len(stored), "tokens": int(stored.sizes.sum())}
            print(f"{path.name}: {len(stored)} sentences, {int(stored.sizes.sum())} tokens")
    return counts


@contextmanager
def no_log_file(data: Path) -> Iterator[None]:
    """Keep fairseq-preprocess from logging to a file in data, which it does once more each call."""
    logger = logging.getLogger("fairseq_cli.preprocess")
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        (data / "preprocess.log").unlink(missing_ok=True)


def build_data(task: Task, data: Path, workers: int) -> None:
    """Binarize encoded text; DATA appears under its name when all pairs are in it."""
    wanted = []
    for shard in task.shards():
        for pair in task.pairs:
            splits = task.splits(pair, shard)
            if splits:
                wanted += binarize_shard(task, shard, pair, splits, workers)
    for path in list(task.binarized().rglob("*")):  # of a pair that is no longer wanted
        if path.is_file() and path not in wanted and not path.name.startswith("dict."):
            path.unlink()
    if data.exists():
        shutil.rmtree(data)
    task.binarized().rename(data)


def binarize_shard(
    task: Task, shard: str, pair: str, splits: Sequence[str], workers: int
) -> List[Path]:
    """Binarize what a shard has of a pair, unless it is done, and return the files of it."""
    encoded, folder = task.encoded(shard), task.binarized(shard)
    outputs = [
        folder / f"{path.name}.{kind}"
        for split in splits
        for path in text_files(encoded, split, pair)
        for kind in ("bin", "idx")
    ]
    run_stage(
        task.stamp("binarize", shard, pair),
        partial(binarize_pair, encoded, splits, pair, task.dictionary, folder, workers),
        settings={"shard": shard, "shards": task.num_shards},
        # the stamps stand for the encoded text, which is not read again for its hash
        inputs=[task.dictionary, *(task.stamp("encode", split, pair) for split in splits)],
        outputs=outputs,
    )
    return outputs


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
    dealt = deal_pairs(text, pairs, num_shards)
    task = Task(text, pairs, model, dictionary, work, num_shards, dealt)
    with worker_pool(workers) as pool:
        for pair in pairs:
            encode_pair(task, pair, ProcessingOptions(pool))
    build_data(task, data, workers)
    shutil.rmtree(work)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="folder with {train,valid,test}.SRC-TGT.{SRC,TGT}")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="SRC-TGT")
    parser.add_argument("--sentencepiece-model", type=Path, required=True)
    parser.add_argument("--dict", type=Path, required=True, help="the dict.txt made with the model")
    parser.add_argument("--out", type=Path, required=True, help="folder DATA to write")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--shards", type=int, default=1, help="folders to deal training text to")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    check_paths(args)
    for pair in args.pairs:
        check_pair(pair, "--pairs", f"{pair}: expected SRC-TGT, as in en-de")
    for path in (args.sentencepiece_model, args.dict):
        if not path.is_file():
            refuse(f"{path}: no such file")
    for flag, number in (("workers", args.workers), ("shards", args.shards)):
        if number < 1:
            refuse(f"--{flag} {number}: must be 1 or more")
    refuse_existing([args.out], args.overwrite)
    check_vocabulary(args.sentencepiece_model, args.dict)
    binarize(
        args.text,
        args.pairs,
        args.sentencepiece_model,
        args.dict,
        args.out,
        args.workers,
        args.shards,
    )


if __name__ == "__main__":
    with command():
        main()
