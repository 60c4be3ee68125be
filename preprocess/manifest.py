"""What the steps counted, put together: manifest.json, speeds.json and languages.yaml."""

import json
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any, Dict, List

from preprocess.binarize import Task, present_splits
from preprocess.config import Config
from preprocess.corpus import EVAL_SPLITS, Corpus
from preprocess.counts import Counts, summed
from preprocess.stages import stage_result
from preprocess.text_files import write_lines

PIVOT = "en"  # is in every trained pair, and so of no class of its own
PACKAGES = ("fairseq_taskmoe", "fairseq", "sentencepiece", "pycld2", "numpy")


def clean_line(pair: str, name: str, counts: Counts) -> str:
    """Say in a line what cleaning left of a data set."""
    dropped = {rule: count for rule, count in counts["dropped"].items() if count}
    reasons = ", ".join(f"{count} {rule}" for rule, count in dropped.items())
    kept, lines = counts["kept"]["lines"], counts["lines"]
    return f"{pair} {name}: kept {kept} of {lines} pairs; dropped {reasons or 'none'}"


def heavy_rules(pair: str, name: str, counts: Counts) -> List[str]:
    """Warn, in a line each, of the rules that dropped more than half of a data set.

    Sooner than text so bad it is a language that is named otherwise than it is written.
    """
    return [
        f"warning: {pair} {name}: the rule {rule!r} dropped {100 * count / counts['lines']:.0f} % "
        f"of {counts['lines']} pairs"
        for rule, count in counts["dropped"].items()
        if 2 * count > counts["lines"]
    ]


def dedup_line(pair: str, counts: Dict[str, Counts]) -> str:
    """Say in a line what deduplication left of a pair."""
    total = summed(counts.values())
    return (
        f"{pair}: kept {total['kept']['lines']} of {total['lines']} pairs; dropped "
        f"{total['duplicates']} duplicates, {total['held out']} held out for validation or test"
    )


def rule_speeds(config: Config, corpus: Corpus) -> Dict[str, Dict[str, float]]:
    """Return the bytes that every rule saw and dropped, the core's seconds, and MB a second."""
    counts = summed(
        stage_result(corpus.stamp("clean", pair, dataset.name))
        for pair in config.pairs
        for dataset in corpus.datasets(pair)
    )
    speeds = counts["speed"]
    seconds = sum(speed["seconds"] for speed in speeds.values())
    speeds["whole chain"] = {"bytes": counts["bytes"], "seconds": seconds}
    dropped = {**counts["dropped"], "whole chain": counts["lines"] - counts["kept"]["lines"]}
    return {
        rule: {
            "dropped": dropped[rule],
            **speed,
            "MB_per_second": round(speed["bytes"] / 1e6 / max(speed["seconds"], 1e-6), 2),
        }
        for rule, speed in speeds.items()
    }


def speed_table(speeds: Dict[str, Dict[str, float]]) -> str:
    lines = [f"{'rule':<15}{'dropped':>12}{'MB/s a core':>14}"]
    for rule, speed in speeds.items():
        lines.append(f"{rule:<15}{speed['dropped']:>12}{speed['MB_per_second']:>14.1f}")
    return "\n".join(lines)


def versions() -> Dict[str, str]:
    """Return the versions of what the data depends on."""
    distributions = packages_distributions()
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(distributions.get(package, [package])[0])
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def pair_counts(pair: str, trained: bool, corpus: Corpus, task: Task) -> Dict[str, Any]:
    """Return what was counted of a pair, step by step."""
    counts: Dict[str, Any] = {}
    if trained:
        counts["clean"] = {
            dataset.name: stage_result(corpus.stamp("clean", pair, dataset.name))
            for dataset in corpus.datasets(pair)
        }
        for dataset in counts["clean"].values():  # which differs from run to run
            del dataset["speed"]
        counts["dedup"] = stage_result(corpus.stamp("dedup", pair))
    for split in EVAL_SPLITS:
        counts[split] = stage_result(corpus.stamp("copy", split, pair))
    counts["encoded"] = {
        split: stage_result(task.stamp("encode", split, pair))
        for split in present_splits(task.text, pair)
    }
    counts["data-bin"] = {
        shard: stage_result(task.stamp("binarize", shard, pair))
        for shard in task.shards()
        if task.splits(pair, shard)
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
    # in quotes, as YAML takes no for a truth value
    return [
        f'"{language}": {{train_pairs: {number}, class: '
        f"{'high' if number > config.high_resource_pairs else 'low'}}}"
        for language, number in numbers.items()
    ]


def write_all(config: Config, corpus: Corpus, task: Task) -> None:
    """Write the three files into OUT; the manifest of equal data is equal, byte by byte."""
    pairs = {
        pair: pair_counts(pair, pair in config.pairs, corpus, task) for pair in config.all_pairs
    }
    content = {
        "settings": config.as_dict(),
        "versions": versions(),
        "pairs": pairs,
        "sentencepiece": {
            "sample": stage_result(corpus.stamp("sample")),
            "pieces": stage_result(corpus.stamp("train")),
        },
    }
    write_lines(corpus.out / "manifest.json", [json.dumps(content, indent=1, ensure_ascii=False)])
    speeds = rule_speeds(config, corpus)
    write_lines(corpus.out / "speeds.json", [json.dumps(speeds, indent=1)])
    train_pairs = {
        pair: summed(pairs[pair]["dedup"].values())["kept"]["lines"] for pair in config.pairs
    }
    write_lines(corpus.out / "languages.yaml", language_classes(config, train_pairs))
