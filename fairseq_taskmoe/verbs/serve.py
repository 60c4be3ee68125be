"""Serve extracted models over HTTP: a web page at /, a JSON interface at /translate.

    taskmoe serve subnets/
    taskmoe serve checkpoints/checkpoint_best.pt -s en -t de
    curl localhost:8000/translate -H 'Content-Type: application/json' \\
        -d '{"source": "en", "target": "de", "text": "Good day!"}'

Sentences of all waiting requests are translated together. /openapi.json describes the requests;
/directions, /health and /metrics describe the service. It has no authentication and no encryption:
for access from other machines, use a proxy that has them.
"""

import argparse
import os
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Callable, List

from ..errors import refuse
from ..host import use_passive_waiting
from ..serving.limits import Limits, flag
from .arguments import check_least, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", metavar="DIR",
        help="an extracted model, a folder of them, or a checkpoint in one file",
    )
    parser.add_argument("-s", "--source-lang", metavar="LANG", help="of a checkpoint's direction")
    parser.add_argument("-t", "--target-lang", metavar="LANG", help="of a checkpoint's direction")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0: any free port, which is printed"
    )
    parser.add_argument(
        "--allowed-hosts", metavar="NAMES",
        help="comma-separated Host headers to accept besides localhost; * for any (default: none "
        "on a loopback --host, else any)",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda", "auto"], default="cpu", help="default: cpu"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N",
        help="threads of each model; models that work at the same time share the cores, so with "
        "many models give the number of cores divided by that of busy models; default: one for "
        "each core",
    )
    limits = parser.add_argument_group("limits")
    for each in fields(Limits):
        limits.add_argument(
            flag(each.name), type=type(each.default), default=each.default, metavar="N",
            help=f"{each.metadata['help']}; default: {each.default}",
        )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    check_least(args, threads=0)
    use_passive_waiting()

    from ..serving.service import model_folders, open_models, serve
    from ..subnet.open_translator import open_translator

    def extracted() -> List[Any]:
        languages = args.source_lang, args.target_lang
        return [open_translator(args.models, *languages, args.device, args.threads)[0]]

    load: Callable[[], List[Any]] = extracted
    if not os.path.isfile(args.models):
        if args.source_lang or args.target_lang:
            refuse("-s and -t choose a direction of a checkpoint; a folder is served as it is")
        folders = model_folders(Path(args.models))
        load = partial(open_models, folders, args.device, args.threads)
    limits = Limits(**{each.name: getattr(args, each.name) for each in fields(Limits)})
    allowed_hosts = None
    if args.allowed_hosts:
        allowed_hosts = [name.strip() for name in args.allowed_hosts.split(",")]
    serve(load, args.host, args.port, allowed_hosts, limits)
