"""The steps of `python -m preprocess.run`, in the order in which they depend on each other."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from fairseq_taskmoe.errors import refuse

from . import binarize, manifest, sentencepiece_model
from .chunks import ProcessingOptions
from .cleaning import clean, dedup
from .config import Config
from .corpus import EVAL_SPLITS, SPLITS, Corpus, Dataset, languages_of
from .encode import DataLayout, encode_pair, shards_per_pair
from .pool import worker_pool
from .stages import run_stage, stage_result


class Preparation(NamedTuple):
    """What every step needs: the configuration, the folders, and the number of processes."""

    config: Config
    corpus: Corpus
    workers: int

    def data_layout(self) -> DataLayout:
        out, pairs = self.corpus.out, self.config.all_pairs
        return DataLayout(
            text=out / "text",
            pairs=pairs,
            model=out / "spm.model",
            dictionary=out / "dict.txt",
            work=self.corpus.work("data"),
            num_shards=self.config.shards,
            shards_per_pair=shards_per_pair(out / "text", pairs, self.config.shards),
        )


def cleaned(corpus: Corpus, pair: str) -> List[Dataset]:
    """Return the outputs of the step clean for a pair."""
    source, target = languages_of(pair)
    folder = corpus.work("clean", pair)
    return [
        Dataset(name, (folder / f"{name}.{source}", folder / f"{name}.{target}"))
        for name, _ in corpus.datasets(pair)
    ]


def require(files: Sequence[Path], step: str) -> None:
    for path in files:
        if not path.exists():
            refuse(f"{path}: no such file; run the step {step} first")


def clean_step(preparation: Preparation) -> None:
    """Clean all training sets; check and copy the validation and test sets."""
    config, corpus, workers = preparation
    # find all files before spending hours on some of them
    datasets = {pair: corpus.datasets(pair) for pair in config.pairs}
    evals = {
        (split, pair): corpus.raw_eval(split, pair)
        for split in EVAL_SPLITS
        for pair in config.all_pairs
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
    warnings: List[str] = []
    with worker_pool(workers) as pool:
        options = ProcessingOptions(pool, config.chunk_lines)
        for pair, found in datasets.items():
            for dataset, output in zip(found, cleaned(corpus, pair), strict=True):
                stamp = corpus.stamp("clean", pair, dataset.name)
                cleaner = clean.Cleaner(languages_of(pair), config.rules)
                run_stage(
                    stamp,
                    partial(clean.clean_dataset, dataset.sides, output.sides, cleaner, options),
                    settings=cleaner.settings(),
                    inputs=dataset.sides,
                    outputs=output.sides,
                )
                counts = stage_result(stamp)
                print(manifest.clean_line(pair, dataset.name, counts), file=sys.stderr)
                warnings += manifest.warnings(pair, dataset.name, counts)
    for line in warnings:
        print(line, file=sys.stderr)


def write_rejected(preparation: Preparation, folder: Path) -> None:
    """Write the first pairs of each training set that each rule of the step clean drops."""
    config, corpus, workers = preparation
    with worker_pool(workers) as pool:
        options = ProcessingOptions(pool, config.chunk_lines)
        for pair in config.pairs:
            cleaner = clean.Cleaner(languages_of(pair), config.rules)
            for dataset in corpus.datasets(pair):
                output = folder / f"{pair}.{dataset.name}.tsv"
                clean.write_rejected(dataset.sides, output, cleaner, options)


def dedup_step(preparation: Preparation) -> None:
    """Drop duplicates, and training pairs with a sentence of a validation or test set."""
    config, corpus, workers = preparation
    texts = [
        (language, path)
        for split in EVAL_SPLITS
        for pair in config.all_pairs
        for language, path in zip(languages_of(pair), corpus.text(split, pair), strict=True)
    ]
    require([path for _, path in texts], "clean")
    held_out_keys = corpus.work("dedup", "held_out.npy")
    run_stage(
        corpus.stamp("held_out"),
        partial(dedup.write_held_out_keys, texts, held_out_keys),
        settings={"languages": [language for language, _ in texts], "code": dedup.code_hash()},
        inputs=[path for _, path in texts],
        outputs=[held_out_keys],
    )
    with worker_pool(workers) as pool:
        options = ProcessingOptions(pool, config.chunk_lines)
        for pair in config.pairs:
            datasets, outputs = cleaned(corpus, pair), corpus.text("train", pair)
            inputs = [path for dataset in datasets for path in dataset.sides]
            require(inputs, "clean")
            names = [dataset.name for dataset in datasets]
            work = corpus.work("dedup", pair)
            stamp = corpus.stamp("dedup", pair)
            run_stage(
                stamp,
                partial(
                    dedup.dedup_pair, datasets, outputs, languages_of(pair), held_out_keys, work,
                    options,
                ),
                settings={"datasets": names, "code": dedup.code_hash()},
                inputs=[held_out_keys, *inputs],
                outputs=outputs,
            )
            print(manifest.dedup_line(pair, stage_result(stamp)), file=sys.stderr)


def sample_step(preparation: Preparation) -> None:
    """Write the text that SentencePiece is trained on."""
    config, corpus, _ = preparation
    files: Dict[str, List[Path]] = {}
    for pair in config.pairs:
        for language, path in zip(languages_of(pair), corpus.text("train", pair), strict=True):
            files.setdefault(language, []).append(path)
    inputs = [path for paths in files.values() for path in paths]
    require(inputs, "dedup")
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


def train_step(preparation: Preparation) -> None:
    """Train SentencePiece on the sample, and write fairseq's dictionary."""
    config, corpus, _ = preparation
    sample = corpus.out / "spm.sample.txt"
    model, dictionary = corpus.out / "spm.model", corpus.out / "dict.txt"
    require([sample], "sample")
    settings: Dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "coverage": config.character_coverage,
        "byte_fallback": config.byte_fallback,
        "threads": config.sentencepiece_threads,
    }

    def train() -> int:
        sentencepiece_model.train_model(sample, model, **settings)
        return sentencepiece_model.write_dictionary(model, sample, dictionary)

    run_stage(corpus.stamp("train"), train, settings, inputs=[sample], outputs=[model, dictionary])


def encode_step(preparation: Preparation) -> None:
    """Split all text into pieces, and divide the training text into shards."""
    config, corpus, workers = preparation
    layout = preparation.data_layout()
    require([layout.model], "train")
    require([path for pair in config.pairs for path in corpus.text("train", pair)], "dedup")
    with worker_pool(workers) as pool:
        for pair in layout.pairs:
            encode_pair(layout, pair, ProcessingOptions(pool, config.chunk_lines))


def binarize_step(preparation: Preparation) -> None:
    """Make data-bin with fairseq-preprocess."""
    config, corpus, workers = preparation
    layout = preparation.data_layout()
    encoded = [
        layout.stamp("encode", split, pair)
        for pair in layout.pairs
        for split in SPLITS
        if split != "train" or pair in config.pairs
    ]
    require(encoded, "encode")
    require([layout.model, layout.dictionary], "train")
    binarize.check_vocabulary(layout.model, layout.dictionary)
    data = corpus.out / "data-bin"
    run_stage(
        corpus.stamp("data-bin"),
        partial(binarize.build_data, layout, data, workers),
        settings={"shards": layout.num_shards, "pairs": list(layout.pairs)},
        inputs=[layout.dictionary, *encoded],
        outputs=[data],
    )


def manifest_step(preparation: Preparation) -> None:
    """Write the counts of all steps, and the class of every language."""
    config, corpus, _ = preparation
    require([corpus.out / "data-bin"], "binarize")
    manifest.write_all(config, corpus, preparation.data_layout())


STEPS: Dict[str, Callable[[Preparation], None]] = {
    "clean": clean_step,
    "dedup": dedup_step,
    "sample": sample_step,
    "train": train_step,
    "encode": encode_step,
    "binarize": binarize_step,
    "manifest": manifest_step,
}
