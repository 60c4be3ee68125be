"""Compare systems with a baseline, direction by direction: paired bootstrap on their translations.

    taskmoe compare runs/dense_base/evaluation runs/*/evaluation --out runs/significance.json
    taskmoe compare runs/dense_base/evaluation runs/bilingual --out bilingual.json

Takes folders of `taskmoe evaluate` with the same search and the same references. A folder of
models for one direction each (runs/bilingual/en-de/evaluation and so on) is one system. The
baseline is ignored among the other systems. Writes differences and p-values, and prints them.
"""

import argparse
import json
from pathlib import Path

from .arguments import check_least, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", help="evaluation folder of the system to compare with")
    parser.add_argument(
        "others", nargs="+", metavar="other", help="evaluation folders of the other systems"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--metric", default="bleu", metavar="NAME", help="bleu, chrf or chrfpp; default: bleu"
    )
    parser.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="bootstrap samples; default: 1000"
    )
    parser.add_argument("--seed", type=int, default=12345, metavar="N", help="default: 12345")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    from ..errors import refuse
    from ..evaluation.significance import compare_systems, comparison_table
    from ..files import write_atomically

    check_least(args, samples=1, seed=1)
    others = [one for one in args.others if Path(one).resolve() != Path(args.baseline).resolve()]
    if not others:
        refuse("name an evaluation folder besides the baseline's")
    if not Path(args.out).resolve().parent.is_dir():
        refuse(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    report = compare_systems(args.baseline, others, args.metric, args.samples, args.seed)
    write_atomically(Path(args.out), json.dumps(report, indent=2) + "\n")
    print(comparison_table(report))
