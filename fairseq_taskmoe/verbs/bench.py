"""Measure throughput on random weights and tokens, and traffic between ranks.

layer: one MoE layer, against a dense network of the same computation and other libraries' layers.
train: a training step of whole models, against dense ones and fairseq's own.
decode: beam search by batch size, of token routing, task routing and what is cut out of it.
evaluate: `taskmoe evaluate` of many directions, against fairseq-generate for each.
subnet: what `taskmoe extract` leaves of a model for one language pair, against the full one.
traffic: what ranks send to one another in training on real data, against the minimum.
"""

import argparse
import os
from typing import Any, Dict

from ..errors import refuse
from . import bench_decode, bench_evaluate, bench_layer, bench_subnet, bench_train
from .flags import pairs_in_flag, refuse_empty

MEASUREMENTS = {
    "layer": bench_layer, "train": bench_train, "decode": bench_decode, "evaluate": bench_evaluate,
    "subnet": bench_subnet,
}
TRAFFIC = """Count what ranks send to one another in training, and compare it with the minimum.

    python examples/demo/prepare.py --out runs/demo
    taskmoe bench traffic --data runs/demo/data-bin --ranks 4 --out traffic.json

Small models are trained on real data by real processes over gloo. MB are 10^6 bytes, sent by all
ranks together in an update.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parsers = parser.add_subparsers(
        dest="what", required=True, metavar="{layer,train,decode,evaluate,subnet,traffic}"
    )
    for name, module in MEASUREMENTS.items():
        module.add_arguments(parsers.add_parser(
            name, description=module.__doc__, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ))
    _add_traffic(parsers.add_parser(
        "traffic", description=TRAFFIC, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ))


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="FOLDER", help="binarized training data")
    parser.add_argument(
        "--lang-pairs", default="en-de,de-en,en-ru,ru-en,en-zh,zh-en", metavar="PAIRS",
        help="comma-separated tasks; default: the demo's",
    )
    parser.add_argument("--ranks", type=int, default=4, metavar="N", help="processes; default: 4")
    parser.add_argument("--arch", choices=["tiny", "base", "big"], default="tiny", help="size")
    parser.add_argument("--moe-expert-count", type=int, default=8, metavar="E", help="default: 8")
    parser.add_argument(
        "--moe-freq", type=int, default=1, metavar="N",
        help="every N-th layer is an MoE layer; default: 1",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=800, metavar="T", help="of a batch; default: 800"
    )
    parser.add_argument("--updates", type=int, default=24, metavar="N", help="default: 24")
    parser.add_argument(
        "--virtual-epoch-size", type=int, metavar="N",
        help="sentences after which batches are dealt anew by what the gates have become",
    )
    parser.add_argument(
        "--variants", default="token_token,sentence_sentence,target_target,pair_pair",
        help="comma-separated routers of encoder and decoder, as token_target",
    )
    parser.add_argument(
        "--precisions", default="fp32,bf16", help="comma-separated; default: fp32,bf16"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the measurements here")


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        refuse(f"--out {args.out}: no such folder")
    if args.what == "traffic":
        run_traffic(args)
    else:
        MEASUREMENTS[args.what].run(args)


def run_traffic(args: argparse.Namespace) -> None:
    from ..benchmarks import measure
    from ..benchmarks.traffic import ROUTERS, Load, count_traffic, list_variants

    for name in (
        "ranks", "moe_expert_count", "moe_freq", "max_tokens", "updates", "virtual_epoch_size"
    ):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            refuse(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    routers, precisions = args.variants.split(","), args.precisions.split(",")
    for pair in routers:
        if len(pair.split("_")) != 2 or not set(pair.split("_")) <= set(ROUTERS):
            refuse(f"--variants {pair}: give two of {', '.join(ROUTERS)}, as token_target")
    for precision in precisions:
        if precision not in ("fp32", "bf16"):
            refuse(f"--precisions {precision}: choose from fp32, bf16")
    load = Load(
        args.data, pairs_in_flag(args), args.ranks, args.moe_expert_count, args.arch,
        args.moe_freq, args.max_tokens, args.updates, args.virtual_epoch_size,
    )
    print(
        f"{'routers':19}{'':5}{'batches':9}{'rows MB':>9}{'minimum':>9}{'logged':>8}"
        f"{'facts':>7}{'staying':>9}{'kB/token':>10}{'tokens/batch':>14}"
    )
    rows = []
    for row in count_traffic(load, list_variants(routers, precisions)):
        rows.append(row)
        print(_counted(row), flush=True)
    print(
        "facts: share of the bytes beside rows; staying: share of tokens' visits to a rank with "
        "their experts that\nstay where they are, in the last quarter of updates; so are kB for "
        "each target token; tokens: target tokens\n\nrows for the same routing, in MB:\n"
        f"{'routers':19}{'':5}{'batches':9}{'minimum':>9}{'each choice':>13}{'own too':>9}"
        f"{'capacity 2':>12}{'(drops)':>9}{'none dropped':>14}"
    )
    for row in rows:
        print(_otherwise(row))
    if args.out:
        measure.save(args.out, {**measure.describe(load._asdict()), "variants": rows})


def _named(row: Dict[str, Any]) -> str:
    return f"{row['routers']:19}{row['precision']:5}{row['batches']:9}"


def _counted(row: Dict[str, Any]) -> str:
    end = row["last_quarter"]
    minimum = "equal" if row["is_minimum"] else "OTHER"
    logged = "equal" if row["is_logged"] else "OTHER"
    return (
        f"{_named(row)}{row['bytes_sent']['rows'] / 1e6:9.3f}{minimum:>9}{logged:>8}"
        f"{row['share_of_facts_and_counts']:7.1%}{end['share_that_stays']:9.1%}"
        f"{end['bytes_per_target_token'] / 1e3:10.3f}{row['target_tokens_per_batch']:14.0f}"
    )


def _otherwise(row: Dict[str, Any]) -> str:
    needed = {name: number / 1e6 for name, number in row["bytes_needed"].items()}
    return (
        f"{_named(row)}{needed['minimum']:9.3f}{needed['each_choice']:13.3f}"
        f"{needed['unsorted']:9.3f}{needed['capacity']:12.3f}"
        f"{row['bytes_needed']['dropped'] / row['bytes_needed']['unsorted']:9.1%}"
        f"{needed['capacity_for_all']:14.3f}"
    )
