"""Prepare a corpus: clean, deduplicate, one SentencePiece model, encode, binarize.

RAW holds train/PAIR/DATASET.{SRC,TGT} and {valid,test}/PAIR.{SRC,TGT}, plain or .gz. OUT gets
text/, spm.model, dict.txt, data-bin/, manifest.json, speeds.json and languages.yaml; OUT/work may
be removed when all is done. What is done already is skipped, and a step that was killed goes on
where it was.
"""

import argparse
import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths
from preprocess import binarize, manifest, sentencepiece_model
from preprocess.chunks import ProcessingOptions
from preprocess.cleaning import clean, dedup
from preprocess.config import Config, load_config
from preprocess.corpus import EVAL_SPLITS, SPLITS, Corpus, Dataset
from preprocess.pool import worker_pool
from preprocess.stages import only_run, run_stage, stage_result


class Run(NamedTuple):
    """What all steps need to know."""

    config: Config
    corpus: Corpus
    workers: int

    def binarization(self) -> binarize.Task:
        out, pairs = self.corpus.out, self.config.all_pairs
        return binarize.Task(
            text=out / "text",
            pairs=pairs,
            model=out / "spm.model",
            dictionary=out / "dict.txt",
            work=self.corpus.work("data"),
            num_shards=self.config.shards,
            train_shards=binarize.deal_pairs(out / "text", pairs, self.config.shards),
        )


def languages_of(pair: str) -> clean.Pair:
    source, target = pair.split("-")
    return source, target


def cleaned(corpus: Corpus, pair: str) -> List[Dataset]:
    """Return the training sets of a pair as the step clean leaves them."""
    source, target = languages_of(pair)
    folder = corpus.work("clean", pair)
    return [
        Dataset(name, folder / f"{name}.{source}", folder / f"{name}.{target}")
        for name, _, _ in corpus.datasets(pair)
    ]


def clean_step(run: Run) -> None:
    """Clean all data sets; check and copy what is for validation and test."""
    corpus, rules = run.corpus, run.config.rules
    # all of it is looked for before hours are spent on a part
    datasets = {pair: corpus.datasets(pair) for pair in run.config.pairs}
    evals = {
        (split, pair): corpus.raw_eval(split, pair)
        for split in EVAL_SPLITS
        for pair in run.config.all_pairs
    }
    for (split, pair), sides in evals.items():
        outputs = corpus.text(split, pair)
        run_stage(
            corpus.stamp("copy", split, pair),
            partial(clean.copy_eval_text, sides, outputs),
            settings={},
            inputs=sides,
            outputs=outputs,
        )
    warned: List[str] = []
    with worker_pool(run.workers) as pool:
        way = ProcessingOptions(pool, run.config.chunk_lines)
        for pair, found in datasets.items():
            for dataset, output in zip(found, cleaned(corpus, pair), strict=True):
                stamp = corpus.stamp("clean", pair, dataset.name)
                sides, outputs = (dataset.source, dataset.target), (output.source, output.target)
                journal = stamp.with_suffix(".journal")
                run_stage(
                    stamp,
                    partial(
                        clean.clean_dataset, sides, outputs, languages_of(pair), rules, journal, way
                    ),
                    settings=clean.clean_settings(languages_of(pair), rules),
                    inputs=sides,
                    outputs=outputs,
                )
                counts = stage_result(stamp)
                print(manifest.clean_line(pair, dataset.name, counts), file=sys.stderr)
                warned += manifest.heavy_rules(pair, dataset.name, counts)
    print(manifest.speed_table(manifest.rule_speeds(run.config, corpus)), file=sys.stderr)
    for line in warned:
        print(line, file=sys.stderr)


def dedup_step(run: Run) -> None:
    """Drop duplicates, and what is held out for validation or test."""
    corpus, config = run.corpus, run.config
    texts = [
        (language, path)
        for split in EVAL_SPLITS
        for pair in config.all_pairs
        for language, path in zip(languages_of(pair), corpus.text(split, pair), strict=True)
    ]
    needed([path for _, path in texts], "clean")
    held_out_keys = corpus.work("dedup", "held_out.npy")
    run_stage(
        corpus.stamp("held_out"),
        partial(dedup.write_held_out_keys, texts, held_out_keys),
        settings={"languages": [language for language, _ in texts], "code": dedup.code_hash()},
        inputs=[path for _, path in texts],
        outputs=[held_out_keys],
    )
    with worker_pool(run.workers) as pool:
        for pair in config.pairs:
            datasets, outputs = cleaned(corpus, pair), corpus.text("train", pair)
            inputs = [path for dataset in datasets for path in (dataset.source, dataset.target)]
            needed(inputs, "clean")
            stamp = corpus.stamp("dedup", pair)
            run_stage(
                stamp,
                partial(
                    dedup.dedup_pair,
                    datasets,
                    outputs,
                    languages_of(pair),
                    held_out_keys,
                    corpus.work("dedup", pair),
                    ProcessingOptions(pool, config.chunk_lines),
                ),
                settings={
                    "datasets": [dataset.name for dataset in datasets],
                    "code": dedup.code_hash(),
                },
                inputs=[held_out_keys, *inputs],
                outputs=outputs,
            )
            print(manifest.dedup_line(pair, stage_result(stamp)), file=sys.stderr)


def sample_step(run: Run) -> None:
    """Write the text that SentencePiece is trained on."""
    corpus, config = run.corpus, run.config
    files: Dict[str, List[Path]] = {}
    for pair in config.pairs:
        for language, path in zip(languages_of(pair), corpus.text("train", pair), strict=True):
            files.setdefault(language, []).append(path)
    inputs = [path for paths in files.values() for path in paths]
    needed(inputs, "dedup")
    sample = corpus.out / "spm.sample.txt"
    settings: Dict[str, Any] = {
        "total": config.sample_lines,
        "temperature": config.temperature,
        "seed": config.seed,
    }
    run_stage(
        corpus.stamp("sample"),
        partial(sentencepiece_model.write_sample, files, sample, **settings),
        settings={**settings, "languages": {name: len(paths) for name, paths in files.items()}},
        inputs=inputs,
        outputs=[sample],
    )


def train_step(run: Run) -> None:
    """Train SentencePiece on the sample, and write fairseq's dictionary."""
    out, config = run.corpus.out, run.config
    sample, model, dictionary = out / "spm.sample.txt", out / "spm.model", out / "dict.txt"
    needed([sample], "sample")
    settings: Dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "coverage": config.character_coverage,
        "byte_fallback": config.byte_fallback,
        "threads": config.sentencepiece_threads,
    }

    def train() -> int:
        sentencepiece_model.train_model(sample, model, **settings)
        return sentencepiece_model.write_dictionary(model, sample, dictionary)

    run_stage(
        run.corpus.stamp("train"), train, settings, inputs=[sample], outputs=[model, dictionary]
    )


def encode_step(run: Run) -> None:
    """Split all text into pieces, and the training text into shards."""
    task = run.binarization()
    needed([task.model], "train")
    needed([path for pair in run.config.pairs for path in run.corpus.text("train", pair)], "dedup")
    with worker_pool(run.workers) as pool:
        for pair in task.pairs:
            binarize.encode_pair(task, pair, ProcessingOptions(pool, run.config.chunk_lines))


def binarize_step(run: Run) -> None:
    """Make data-bin with fairseq-preprocess."""
    task = run.binarization()
    encoded = [
        task.stamp("encode", split, pair)
        for pair in task.pairs
        for split in SPLITS
        if split != "train" or pair in run.config.pairs
    ]
    needed(encoded, "encode")
    needed([task.model, task.dictionary], "train")
    binarize.check_vocabulary(task.model, task.dictionary)
    data = run.corpus.out / "data-bin"
    run_stage(
        run.corpus.stamp("data-bin"),
        partial(binarize.build_data, task, data, run.workers),
        settings={"shards": task.num_shards, "pairs": list(task.pairs)},
        inputs=[task.dictionary, *encoded],
        outputs=[data],
    )


def manifest_step(run: Run) -> None:
    """Write what was counted, and the languages with their classes."""
    needed([run.corpus.out / "data-bin"], "binarize")
    manifest.write_all(run.config, run.corpus, run.binarization())


STEPS: Dict[str, Callable[[Run], None]] = {
    "clean": clean_step,
    "dedup": dedup_step,
    "sample": sample_step,
    "train": train_step,
    "encode": encode_step,
    "binarize": binarize_step,
    "manifest": manifest_step,
}


def needed(files: Sequence[Path], step: str) -> None:
    for path in files:
        if not path.exists():
            refuse(f"{path}: no such file; run the step {step} first")


def prepare(
    config: Config, raw: Path, out: Path, workers: int = 1, steps: Sequence[str] = tuple(STEPS)
) -> None:
    """Run steps, in the order in which they build on each other, on the corpus in raw."""
    run = Run(config, Corpus(raw, out), workers)
    with only_run(run.corpus.work("lock")):
        for name, step in STEPS.items():
            if name in steps:
                step(run)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m preprocess.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file: README.md")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw text")
    parser.add_argument("--out", type=Path, required=True, help="folder to fill")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--steps", default=",".join(STEPS), help="which to run, joined by commas (default: all)"
    )
    args = parser.parse_args(argv)
    check_paths(args)
    steps = args.steps.split(",")
    for step in steps:
        if step not in STEPS:
            refuse(f"--steps {step}: choose from {', '.join(STEPS)}")
    if args.workers < 1:
        refuse(f"--workers {args.workers}: must be 1 or more")
    # fairseq has much to say that is not about this
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        prepare(load_config(args.config), args.raw, args.out, args.workers, steps)
    except sentencepiece_model.BadVocabulary as error:
        refuse(f"{args.config}: vocab_size: {error}")


if __name__ == "__main__":
    with command():
        main()
