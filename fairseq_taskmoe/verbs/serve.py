"""Serve extracted models over HTTP: a page for people at /, JSON for programs at /translate.

    taskmoe serve subnets/
    curl localhost:8000/translate -H 'Content-Type: application/json' \\
        -d '{"source": "en", "target": "de", "text": "Good day!"}'

Sentences of all waiting requests are translated together. /openapi.json describes the requests;
/directions, /health and /metrics tell about the service. It knows no users and no encryption:
beyond this machine, put a proxy in front that does.
"""

import argparse
from dataclasses import fields

from ..host_cores import share_cores
from ..serving.limits import Limits, flag
from .flags import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="DIR", help="an extracted model, or a folder of them")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on; default: 127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0: any, and it is printed"
    )
    parser.add_argument(
        "--allowed-hosts", metavar="NAMES",
        help="comma-separated names in Host headers to answer to, besides localhost; * for any "
        "(default: none on a loopback --host, else any)",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda", "auto"], default="cpu", help="default: cpu"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N",
        help="of each model, and models that are asked at once share the cores: with many, give "
        "the cores over how many are busy at a time; default: one for each core",
    )
    limits = parser.add_argument_group("limits")
    for each in fields(Limits):
        limits.add_argument(
            flag(each.name), type=type(each.default), default=each.default, metavar="N",
            help=f"{each.metadata['help']}; default: {each.default}",
        )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    share_cores()

    from ..errors import refuse
    from ..serving.service import serve

    if args.threads < 0:
        refuse(f"--threads {args.threads}: give 0 or more")
    limits = Limits(**{each.name: getattr(args, each.name) for each in fields(Limits)})
    allowed_hosts = None
    if args.allowed_hosts:
        allowed_hosts = [name.strip() for name in args.allowed_hosts.split(",")]
    serve(
        args.models, args.host, args.port, allowed_hosts, limits, args.device, args.threads
    )
