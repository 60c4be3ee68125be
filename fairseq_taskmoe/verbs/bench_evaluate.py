"""Measure `taskmoe evaluate` of many directions against one run of fairseq-generate for each.

Real processes, start to end, with the same plugin, checkpoint, beam and batches; their translations
are compared. Without --data and --path they work on random words with random weights, whose
translations seldom end before --max-len-b: real models stop earlier, and start-up weighs more.
"""

import argparse

from . import measuring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="your binarized data, with --path")
    parser.add_argument("--path", metavar="CKPT", help="your checkpoint, with --data")
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    parser.add_argument("--arch", choices=["tiny", "base"], default="tiny", help="default: tiny")
    parser.add_argument("--moe-expert-count", type=int, metavar="E", help="default: 4; base: 32")
    parser.add_argument(
        "--sentences", type=int, default=50, metavar="N", help="in a test set; default: 50"
    )
    parser.add_argument(
        "--directions", type=int, default=30, metavar="N", help="at most; default: 30"
    )
    parser.add_argument("--beam", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--max-len-b", type=int, default=30, metavar="N", help="longest translation; default: 30"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=4000, metavar="N", help="of a batch; default: 4000"
    )
    measuring.add_arguments(parser, repeats=1)


def run(args: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    import torch

    from ..benchmarks import measure
    from ..benchmarks.evaluate import Search, bench_evaluate
    from ..benchmarks.random_corpus import Made, RandomCorpus, make_corpus
    from ..checkpoint.reading import pairs_of, read_task_moe_checkpoint
    from ..errors import refuse

    measuring.check_device(args)
    for name in ("sentences", "directions", "beam", "max_len_b", "max_tokens", "repeats"):
        if getattr(args, name) < 1:
            refuse(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    if bool(args.data) != bool(args.path):
        refuse("--data and --path go together: the folder of the data, and the checkpoint")
    if args.threads:
        torch.set_num_threads(args.threads)
    search = Search(
        args.gen_subset, args.beam, args.max_len_b, args.max_tokens, args.device, args.threads
    )
    settings = {**search._asdict(), "repeats": args.repeats}
    with tempfile.TemporaryDirectory(prefix="taskmoe-bench-") as folder:
        if args.path:
            made = Made(args.data, args.path)
            settings.update(made._asdict())
        else:
            experts = args.moe_expert_count or {"tiny": 4, "base": 32}[args.arch]
            corpus = RandomCorpus(args.arch, experts, sentences=args.sentences)
            settings.update(corpus._asdict())
            made = make_corpus(corpus, Path(folder))
        lang_pairs = pairs_of(read_task_moe_checkpoint(made.path))[: args.directions]
        settings["lang_pairs"] = lang_pairs
        report = bench_evaluate(made, lang_pairs, search, args.repeats)
    report = {**measure.describe(settings), **report}
    print(f"{'':18}{'seconds':>9}{'spread':>8}{'a direction':>13}{'CPU seconds':>13}{'memory':>10}")
    for name, title in (("evaluate", "taskmoe evaluate"), ("generate", "fairseq-generate")):
        row = report[name]
        spread = "-" if row["spread"] is None else f"{row['spread']:.1%}"
        print(
            f"{title:18}{row['seconds']:9.1f}{spread:>8}{row['seconds_per_direction']:13.2f}"
            f"{row['cpu_seconds']:13.1f}{row['peak_bytes'] / 2**20:7.0f} MB"
        )
    print(
        f"{len(lang_pairs)} directions: {report['ratio']:.2f} times as fast by the clock, "
        f"{report['cpu_ratio']:.2f} times by CPU time\n{report['different_hypotheses']} of "
        f"{args.repeats * report['hypotheses']} translations differ between the two; "
        f"{report['distinct_hypotheses']} of {report['hypotheses']} in a direction are distinct"
    )
    if not args.path:
        print(f"random weights: nearly all translations end at --max-len-b {args.max_len_b}")
    if args.out:
        measure.save(args.out, report)
