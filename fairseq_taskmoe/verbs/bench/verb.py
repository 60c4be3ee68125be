"""Measure throughput with random weights and tokens.

layer: one MoE layer, compared with a dense network of the same computation and other libraries.
train: a training step of whole models, compared with dense models and fairseq's own.
decode: beam search by batch size, with token routing, task routing and extracted sub-networks.
"""

import argparse
import os

from ...errors import refuse
from ..arguments import refuse_empty
from . import decode, layer, train

MEASUREMENTS = {"layer": layer, "train": train, "decode": decode}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parsers = parser.add_subparsers(dest="what", required=True)
    for name, module in MEASUREMENTS.items():
        module.add_arguments(parsers.add_parser(
            name, description=module.__doc__, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ))


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        refuse(f"--out {args.out}: no such folder")
    MEASUREMENTS[args.what].run(args)
