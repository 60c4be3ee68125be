"""Collect the counts of all steps: manifest.json and languages.yaml."""

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any, Dict, List

from .chunks import Counts, summed
from .config import Config
from .corpus import EVAL_SPLITS, Corpus
from .encode import DataLayout, present_splits
from .stages import stage_result
from .text_files import write_lines

PIVOT = "en"  # has no class: it is in every trained pair
PACKAGES = ("fairseq_taskmoe", "fairseq", "sentencepiece", "pycld2", "numpy")


def clean_line(pair: str, name: str, counts: Counts) -> str:
    """Summarize the cleaning of a data set in a line."""
    dropped = {rule: count for rule, count in counts["dropped"].items() if count}
    reasons = ", ".join(f"{count} {rule}" for rule, count in dropped.items())
    kept, lines = counts["kept"]["lines"], counts["lines"]
    return f"{pair} {name}: kept {kept} of {lines} pairs; dropped {reasons or 'none'}"


def warnings(pair: str, name: str, counts: Counts) -> List[str]:
    """Return a line for each rule that dropped more than half of a data set.

    The usual cause is a language code that does not match the text.
    """
    return [
        f"warning: {pair} {name}: the rule {rule!r} dropped {100 * count / counts['lines']:.0f} % "
        f"of {counts['lines']} pairs"
        for rule, count in counts["dropped"].items()
        if 2 * count > counts["lines"]
    ]


def dedup_line(pair: str, counts: Dict[str, Counts]) -> str:
    """Summarize the deduplication of a pair in a line."""
    total = summed(counts.values())
    return (
        f"{pair}: kept {total['kept']['lines']} of {total['lines']} pairs; dropped "
        f"{total['duplicates']} duplicates, {total['held out']} held out for validation or test"
    )


def versions() -> Dict[str, str]:
    """Return the versions of the packages that the data depends on."""
    distributions = packages_distributions()
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(distributions.get(package, [package])[0])
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def pair_counts(
    pair: str, trained: bool, corpus: Corpus, layout: DataLayout
) -> Dict[str, Any]:
    """Return the counts of a pair by step."""
    counts: Dict[str, Any] = {}
    if trained:
        counts["clean"] = {
            dataset.name: stage_result(corpus.stamp("clean", pair, dataset.name))
            for dataset in corpus.datasets(pair)
        }
        counts["dedup"] = stage_result(corpus.stamp("dedup", pair))
    for split in EVAL_SPLITS:
        counts[split] = stage_result(corpus.stamp("copy", split, pair))
    counts["encoded"] = {
        split: stage_result(layout.stamp("encode", split, pair))
        for split in present_splits(layout.text, pair)
    }
    counts["data-bin"] = {
        shard: stage_result(layout.stamp("binarize", shard, pair))
        for shard in layout.shards()
        if layout.splits(pair, shard)
    }
    return counts


def language_classes(config: Config, train_pairs: Dict[str, int]) -> List[str]:
    """Return the lines of languages.yaml: `"de": {train_pairs: 4508785, class: high}`."""
    numbers = summed(
        {language: train_pairs[pair]}
        for pair in config.pairs
        for language in pair.split("-")
        if language != PIVOT
    )
    # quoted, as YAML reads a plain no as false
    return [
        f'"{language}": {{train_pairs: {number}, class: '
        f"{'high' if number > config.high_resource_pairs else 'low'}}}"
        for language, number in numbers.items()
    ]


def write_all(config: Config, corpus: Corpus, layout: DataLayout) -> None:
    """Write both files into OUT; equal data gives an equal manifest, byte for byte."""
    pairs = {
        pair: pair_counts(pair, pair in config.pairs, corpus, layout) for pair in config.all_pairs
    }
    content = {
        "settings": asdict(config),
        "versions": versions(),
        "pairs": pairs,
        "sentencepiece": {
            "sample": stage_result(corpus.stamp("sample")),
            "pieces": stage_result(corpus.stamp("train")),
        },
    }
    write_lines(corpus.out / "manifest.json", [json.dumps(content, indent=1, ensure_ascii=False)])
    train_pairs = {
        pair: summed(pairs[pair]["dedup"].values())["kept"]["lines"] for pair in config.pairs
    }
    write_lines(corpus.out / "languages.yaml", language_classes(config, train_pairs))
