"""Build the corpus software15: 15 languages and English, from the translations of free software.

Writes text/{train,valid,test}.en-XX.{en,XX}, languages.yaml and manifest.json to OUT, and the
intermediate folders packages/, unpacked/ and pairs/. Finished work is skipped.
"""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # examples/ and preprocess/ are not installed

from examples.software15 import (  # noqa: E402
    hold_out,
    interface_text,
    languages,
    packages,
    pairs,
    sources,
    word_overlap,
)
from examples.software15.languages import LANGUAGES, Language  # noqa: E402
from fairseq_taskmoe.errors import command, refuse  # noqa: E402
from preprocess import catalogs  # noqa: E402
from preprocess.corpus import SPLITS  # noqa: E402
from preprocess.pool import worker_pool  # noqa: E402
from preprocess.stages import code_of, only_run, run_stage, stage_result  # noqa: E402
from preprocess.text_files import write_lines  # noqa: E402

LICENCES = {
    "office": "MPL-2.0",
    "help": "MPL-2.0",
    "gnome": "CC-BY-SA-3.0",
    "programs": "GPL and LGPL, versions 2 and 3: see usr/share/doc/*/copyright of each package",
}


def build(out: Path, chosen: Sequence[Language], workers: int) -> None:
    """Build the corpus of these languages in out."""
    deb_files = packages.fetch(packages.package_names(chosen), out / "packages")
    with worker_pool(workers) as pool:
        unpack = partial(packages.unpack, unpacked=out / "unpacked")
        list(pool.ordered_map(unpack, deb_files.values()))
        list(pool.ordered_map(partial(extract_stage, out, deb_files), chosen))
    run_stage(
        out / "stages" / "text.txt",
        lambda: write_corpus(out, chosen, deb_files),
        settings={"packages": [path.name for path in deb_files.values()]},
        inputs=[*(table_of(out, language) for language in chosen)]
        + [Path(__file__), *code_of(catalogs, hold_out, interface_text, word_overlap)],
        outputs=[*text_files(out, chosen), out / "languages.yaml", out / "manifest.json"],
    )


def table_of(out: Path, language: Language) -> Path:
    return out / "pairs" / f"{language.code}.tsv"


def stamp_of(out: Path, language: Language) -> Path:
    return out / "stages" / f"pairs.{language.code}.txt"


def extract_stage(out: Path, deb_files: Dict[str, Path], language: Language) -> None:
    """Make the table of a language's pairs from its packages, unless it is done."""
    own = [deb_files[name] for name in packages.package_names([language])]
    table = table_of(out, language)
    run_stage(
        stamp_of(out, language),
        lambda: extract([out / "unpacked" / path.stem for path in own], language, table),
        settings={"language": language},
        inputs=own + code_of(catalogs, interface_text, sources, pairs),
        outputs=[table],
    )


def extract(unpacked: Sequence[Path], language: Language, table: Path) -> Dict[str, Dict[str, int]]:
    """Write the table of a language's pairs; return the counts by filter and by source."""
    counts: Counter[str] = Counter()
    kept = list(pairs.filter_pairs(sources.all_pairs(unpacked, language), language.code, counts))
    if not kept:
        refuse(f"{table}: no translations into {language.code} in the packages")
    pairs.write_pairs(table, kept)
    print(f"{language.code}: {counts['kept']} of {counts['read']} pairs kept", file=sys.stderr)
    by_source = Counter(pair.application.split("/")[0] for pair in kept)
    return {"filters": dict(counts), "sources": dict(by_source)}


def write_corpus(out: Path, chosen: Sequence[Language], deb_files: Dict[str, Path]) -> None:
    """Split the pairs of all languages and write text/, languages.yaml and manifest.json."""
    split = hold_out.split_by_application(
        {language.code: pairs.read_pairs(table_of(out, language)) for language in chosen}
    )
    sizes: Dict[str, Dict[str, int]] = {}
    for language in chosen:
        code = language.code
        sentences = {name: getattr(split, name)[code] for name in SPLITS}
        for name in SPLITS:
            prefix = out / "text" / f"{name}.en-{code}"
            write_lines(Path(f"{prefix}.en"), (english for english, _ in sentences[name]))
            write_lines(Path(f"{prefix}.{code}"), (other for _, other in sentences[name]))
        sizes[code] = {name: len(sentences[name]) for name in SPLITS}
        print(f"en-{code}: {sizes[code]}", file=sys.stderr)
    write_lines(out / "languages.yaml", class_lines(sizes))
    manifest: Dict[str, Any] = {
        "packages": {name: path.name for name, path in deb_files.items()},
        "licences": LICENCES,
        "held_out_english": dict(sorted(split.counts.items())),
        "languages": {
            language.code: {**stage_result(stamp_of(out, language)), **sizes[language.code]}
            for language in chosen
        },
    }
    write_lines(out / "manifest.json", [json.dumps(manifest, indent=1)])


def class_lines(sizes: Dict[str, Dict[str, int]]) -> List[str]:
    """Return the lines of languages.yaml: the half with more training pairs has class high."""
    train_pairs = {code: sizes[code]["train"] for code in sizes}
    by_size = sorted(train_pairs, key=lambda code: (-train_pairs[code], code))
    num_high = (len(by_size) + 1) // 2
    classes = {code: "high" if rank < num_high else "low" for rank, code in enumerate(by_size)}
    return [
        f"{code}: {{train_pairs: {train_pairs[code]}, class: {classes[code]}}}" for code in by_size
    ]


def text_files(out: Path, chosen: Sequence[Language]) -> List[Path]:
    return [
        out / "text" / f"{split}.en-{language.code}.{side}"
        for language in chosen
        for split in SPLITS
        for side in ("en", language.code)
    ]


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/software15"), help="output folder")
    parser.add_argument(
        "--languages",
        default=",".join(languages.codes(LANGUAGES)),
        help="codes of the languages besides English (default: all 15)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    args = parser.parse_args(argv)
    if args.workers < 1:
        refuse(f"--workers {args.workers}: must be 1 or more")
    chosen = languages.parse_languages(args.languages)
    with only_run(args.out / "lock"):
        build(args.out, chosen, args.workers)


if __name__ == "__main__":
    with command():
        main()
