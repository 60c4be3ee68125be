"""Write tables of evaluated systems, or all tables and figures of the paper beside its numbers.

    taskmoe tabulate results/a results/b --only-run --formats md,tex --out tables
    taskmoe tabulate runs/software15 --out runs/software15/tables

With --only-run: the averages of all systems, and their scores by direction, of any languages. RUNS
are folders of `taskmoe evaluate`, each a system, or one experiment's folder as below. The best
scores are bold; with --significance, a star marks those that differ from the baseline.

Without it, for one experiment's folder:

Reads RUNS/ROW/evaluation/results.json (ROW.seed2 and so on: further seeds), RUNS/bilingual/PAIR/
evaluation/results.json and, if they exist, ROW/params.json, throughput.json, throughput-web.json
(for figure 4), communication.json (of bench decode --processes), significance.json and
languages.yaml. Writes tables 1, 2 and 4 to 9 and figures 2, 3 and 4. Missing results are shown as
"not run". No model is loaded.
"""

import argparse

from .arguments import check_least, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS",
        help="folder of an experiment; with --only-run also folders of taskmoe evaluate",
    )
    parser.add_argument(
        "--only-run", action="store_true",
        help="only tables of the systems that were run, without the paper's rows and columns",
    )
    parser.add_argument(
        "--significance", metavar="FILE",
        help="report of taskmoe compare (default: RUNS/significance.json of an experiment)",
    )
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
        "--formats", default="md,json,tsv", metavar="F[,F]",
        help="of md, tex (LaTeX with booktabs), tsv and json; default: md,json,tsv",
    )
    parser.add_argument(
        "--window", type=int, default=3, metavar="N",
        help="number of languages in a moving mean of figure 3; default: 3",
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    check_least(args, window=1)
    from pathlib import Path

    from ..errors import refuse
    from ..files import clean_up_when_terminated
    from ..tables.experiment import read_experiment
    from ..tables.own import read_evaluations
    from ..tables.tabulate import FORMATS, write_tables

    formats = args.formats.split(",")
    for name in formats:
        if name not in (*FORMATS, "tsv", "json"):
            refuse(f"--formats {args.formats}: {name!r} is none of {', '.join(FORMATS)}, tsv, json")
    if args.significance and not Path(args.significance).exists():
        refuse(f"--significance {args.significance}: no such file")
    clean_up_when_terminated()
    if args.only_run and (Path(args.runs[0]) / "results.json").exists():
        experiment = read_evaluations(args.runs, args.languages, args.significance)
    elif len(args.runs) > 1:
        refuse("give one experiment's folder, or with --only-run folders of taskmoe evaluate")
    else:
        experiment = read_experiment(args.runs[0], args.languages, args.significance)
    for line in write_tables(
        experiment, args.out, formats, args.window, args.overwrite, args.only_run
    ):
        print(line)
