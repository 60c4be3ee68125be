"""Measure the sub-network of one language pair against the full model, as users run them.

full: the checkpoint, in fairseq-generate with the plugin. fairseq: its sub-network, without the
plugin. float32, int8: its sub-network in CTranslate2; int8_trimmed: with a smaller vocabulary too.
Each is a process of its own, by turns. Give --path, --data and --lang-pair of a model of yours;
without them the weights are random, and every translation has --output-length pieces.
"""

import argparse
from typing import Any, Dict, List, Optional

from . import measuring

RANDOM: Dict[str, Any] = {
    "arch": "base", "moe_expert_count": 32, "vocab_size": 64000, "sentences": 200,
}
OWN = ("data", "gen_subset", "references")
OUTPUT_LENGTH = 25  # of random weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", metavar="CKPT", help="your checkpoint, with --data")
    parser.add_argument("--data", metavar="DIR", help="your binarized data, with --path")
    parser.add_argument("--lang-pair", metavar="PAIR", help="direction; default, if random: en-de")
    parser.add_argument("--gen-subset", metavar="SPLIT", help="of your data; default: test")
    parser.add_argument(
        "--references", metavar="FILE", help="raw text, a line for each sentence: BLEU and chrF too"
    )
    parser.add_argument("--arch", choices=["tiny", "base"], help="of random weights; default: base")
    parser.add_argument(
        "--moe-expert-count", type=int, metavar="E", help="of random weights; default: 32"
    )
    parser.add_argument(
        "--vocab-size", type=int, metavar="V", help="words of random weights; default: 64000"
    )
    parser.add_argument(
        "--sentences", type=int, metavar="N", help="random ones to translate; default: 200"
    )
    parser.add_argument(
        "--variants",
        help="comma-separated; default: full,fairseq,float32,int8,int8_trimmed",
    )
    parser.add_argument(
        "--quantizations", default="float32,int8",
        help="of the CTranslate2 variants, the last one trimmed as well; default: float32,int8",
    )
    parser.add_argument(
        "--trim-vocabulary", metavar="SOURCE",
        help="words to keep, as in `taskmoe extract`; default: those of the training data",
    )
    parser.add_argument("--beam", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument(
        "--output-length", type=int, metavar="N",
        help="pieces of every translation; default: free, and 25 with random weights",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=4000, metavar="N",
        help="of a batch, at most; default: 4000",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each core")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--out", metavar="FILE.json", help="write the measurements here")


def run(args: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    check(args)

    from .. import register  # noqa: F401
    from ..benchmarks import measure
    from ..benchmarks.random_corpus import RandomCorpus, make_corpus
    from ..benchmarks.subnet import bench_subnet
    from ..benchmarks.subnet_work import Work
    from ..host_cores import available_cores

    variants = chosen(args)
    own = Work(
        args.data, args.path, args.lang_pair or "en-de", args.gen_subset or "test", args.beam,
        args.output_length, args.max_tokens, args.threads or available_cores(),
    )
    made: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="taskmoe-bench-") as folder:
        if not args.path:
            values = {name: getattr(args, name) or value for name, value in RANDOM.items()}
            corpus = RandomCorpus(
                values["arch"], values["moe_expert_count"], sentences=values["sentences"],
                num_words=values["vocab_size"],
                # of 23 words on each side: about a quarter of the vocabulary occurs in them
                train_sentences=max(1, values["vocab_size"] // 160),
            )
            if own.lang_pair not in corpus.lang_pairs:
                from ..errors import refuse

                refuse(f"--lang-pair {own.lang_pair}: choose from {', '.join(corpus.lang_pairs)}")
            made = corpus._asdict()
            own = own._replace(
                **make_corpus(corpus, Path(folder))._asdict(),
                output_length=args.output_length or OUTPUT_LENGTH,
            )
        report = bench_subnet(
            own, variants, args.repeats, args.trim_vocabulary, args.references
        )
    report["settings"].update(made)
    print(table(report))
    if args.out:
        measure.save(args.out, report)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together."""
    from ..data.named_pairs import check_pairs
    from ..errors import refuse

    for name in ("beam", "max_tokens", "repeats", *RANDOM, "output_length", "threads"):
        value = getattr(args, name)
        if isinstance(value, int) and value < 1:
            refuse(f"--{name.replace('_', '-')} {value}: give 1 or more")
    for name in RANDOM if args.path else OWN:
        if getattr(args, name) is not None:
            reason = "the model of --path has its own" if args.path else "only with --path"
            refuse(f"--{name.replace('_', '-')} {getattr(args, name)}: {reason}")
    if args.path and not (args.data and args.lang_pair):
        refuse(f"--path {args.path}: give --data and --lang-pair as well")
    if args.lang_pair:
        check_pairs([args.lang_pair], "--lang-pair")


def chosen(args: argparse.Namespace) -> List[str]:
    """Return the variants that the flags name, refusing what this machine cannot compute."""
    from ..benchmarks.subnet import REFERENCE, STOCK, TRIMMED
    from ..checkpoint.export_ctranslate2 import check_quantization

    types = args.quantizations.split(",")
    for quantization in types:
        check_quantization(quantization, "cpu")
    small = [f"{quantization}{TRIMMED}" for quantization in types]
    args.variants = args.variants or ",".join([REFERENCE, STOCK, *types, small[-1]])
    found = measuring.chosen_variants(args, [REFERENCE, STOCK, *types, *small])
    return list(dict.fromkeys(found))


def table(report: Dict[str, Any]) -> str:
    """Return a report as lines to read."""
    settings, rows = report["settings"], report["variants"]
    scored = any("bleu" in row for row in rows.values())
    titles = f"{'BLEU':>7}{'':>8}{'chrF':>7}{'':>8}" if scored else ""
    lines = [
        f"{'variant':14}{'parameters':>13}{'disk MB':>9}{'load s':>8}{'tokens/s':>10}{'spread':>8}"
        f"{'of full':>9}{'memory MB':>11}{'of full':>9}{'same':>8}{'tied':>8}{titles}"
    ]
    lines += [line(name, row) for name, row in rows.items()]
    length = settings["output_length"]
    lines += [
        "",
        f"{report['sentences']} sentences of {settings['lang_pair']}, batches of at most "
        f"{settings['max_tokens']} tokens, beam {settings['beam']}, {settings['threads']} "
        f"thread(s), medians of {settings['repeats']}; disk: the file with the weights",
        "same: translations that are those of the full model; tied: others that it finds as "
        "probable",
    ]
    taken = [row for row in rows.values() if row["extraction_seconds"] is not None]
    if taken:
        peak = max(row["extraction_peak_bytes"] for row in taken)
        lines.append(
            f"extraction: at most {max(row['extraction_seconds'] for row in taken):.1f} s and "
            f"{peak / 1e6:,.1f} MB, {peak / report['weight_bytes']:.0%} of the full model's weights"
        )
    if length:
        lines.append(f"all translations have {length} pieces, for whose forced end fairseq takes a "
                     "step more")
    if "num_experts" in settings and any(name.endswith("_trimmed") for name in rows):
        lines.append("random weights: a quarter of the words is left in a smaller vocabulary, and "
                     "others are unknown to it")
    if "full" in rows and rows["full"]["bytes"] > 1.1 * report["weight_bytes"]:
        lines.append(f"{report['weight_bytes'] / 1e6:,.1f} MB of the full checkpoint are weights, "
                     "the rest is a state of training")
    return "\n".join(lines)


def line(name: str, row: Dict[str, Any]) -> str:
    scores = "".join(
        f"{row[score]:7.2f}{_signed(row.get(f'{score}_difference')):>8}"
        for score in ("bleu", "chrf") if score in row
    )
    return (
        f"{name:14}{row['parameters']:13,}{row['bytes'] / 1e6:9,.1f}{row['load_seconds']:8.2f}"
        f"{row['tokens_per_second']:10,.1f}{_percent(row['spread']):>8}"
        f"{measuring.ratio(row.get('speed_of_full')):>9}{row['peak_bytes'] / 1e6:11,.1f}"
        f"{_percent(row.get('memory_of_full')):>9}{_percent(row.get('identical')):>8}"
        f"{_percent(row.get('tied')):>8}{scores}"
    )


def _percent(share: Optional[float]) -> str:
    return "-" if share is None else f"{share:.1%}"


def _signed(difference: Optional[float]) -> str:
    return "" if difference is None else f"({difference:+.2f})"
