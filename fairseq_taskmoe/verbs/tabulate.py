"""Write the paper's tables and figures from an experiment's results, beside the paper's numbers.

    taskmoe tabulate runs/software15 --out runs/software15/tables

Reads RUNS/ROW/evaluation/results.json (ROW.seed2 and so on: further seeds), RUNS/bilingual/PAIR/
evaluation/results.json and, if they exist, ROW/params.json, throughput.json, throughput-web.json
(for figure 4), communication.json (of bench decode --processes), significance.json and
languages.yaml. Writes tables 1, 2 and 4 to 9 and figures 2, 3 and 4. Missing results are shown as
"not run". No model is loaded.
"""

import argparse

from .arguments import check_least, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUNS", help="folder of an experiment")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the tables")
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a DIR that contains only tables and figures",
    )
    parser.add_argument(
        "--languages", metavar="FILE",
        help="lines such as de: {train_pairs: 1000, class: high} (default: RUNS/languages.yaml)",
    )
    parser.add_argument(
        "--formats", default="md,json,tsv", metavar="F[,F]", help="default: md,json,tsv"
    )
    parser.add_argument(
        "--window", type=int, default=3, metavar="N",
        help="number of languages in a moving mean of figure 3; default: 3",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    check_least(args, window=1)
    from ..errors import refuse
    from ..files import clean_up_when_terminated
    from ..tables.experiment import read_experiment
    from ..tables.tabulate import FORMATS, write_tables

    formats = args.formats.split(",")
    for name in formats:
        if name not in FORMATS:
            refuse(f"--formats {args.formats}: {name!r} is none of {', '.join(FORMATS)}")
    clean_up_when_terminated()
    experiment = read_experiment(args.runs, args.languages)
    for line in write_tables(experiment, args.out, formats, args.window, args.overwrite):
        print(line)
