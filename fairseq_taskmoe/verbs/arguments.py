"""Flags that several verbs have, and checks of flags."""

import argparse
from typing import TYPE_CHECKING, List, NoReturn

from ..errors import refuse

if TYPE_CHECKING:
    from ..evaluation.translate import Search

PRECISIONS = ("highest", "high", "medium")  # of float32 products, as torch names them


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered with one line and without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def refuse_empty(args: argparse.Namespace) -> None:
    """Refuse flags with an empty value, such as an unset shell variable."""
    for name, value in vars(args).items():
        if value == "":
            refuse(f"--{name.replace('_', '-')}: give a value")


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Refuse values that are smaller than least; a flag that was not given is None."""
    for name, minimum in least.items():
        value = getattr(args, name)
        if value is not None and value < minimum:
            refuse(f"--{name.replace('_', '-')} {value}: give {minimum} or more")


def pairs_in_flag(args: argparse.Namespace, name: str = "lang_pairs") -> List[str]:
    """Return the language pairs in a flag's value, [] if it was not given."""
    from ..data.named_pairs import named_pairs

    return named_pairs(getattr(args, name), f"--{name.replace('_', '-')}")


def add_data(parser: argparse.ArgumentParser, checkpoint: str, out: str) -> None:
    parser.add_argument("data", help="folder of fairseq's binarized data")
    parser.add_argument("--path", required=True, metavar="CKPT", help=checkpoint)
    parser.add_argument("--out", required=True, metavar="DIR", help=out)


def add_search(parser: argparse.ArgumentParser, beam: int) -> None:
    parser.add_argument("--beam", type=int, default=beam, metavar="N", help=f"default: {beam}")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty; default: 1")
    parser.add_argument(
        "--max-len-a", type=float, default=0.0,
        help="translations have at most a * source length + b tokens; default: 0",
    )
    parser.add_argument("--max-len-b", type=int, default=200, help="default: 200")


def search_of(args: argparse.Namespace) -> "Search":
    from ..evaluation.translate import Search

    check_least(args, beam=1)
    return Search(args.beam, args.lenpen, args.max_len_a, args.max_len_b)


def add_batching(parser: argparse.ArgumentParser, note: str = "") -> None:
    parser.add_argument(
        "--max-tokens", type=int, metavar="N",
        help=f"tokens in a batch; default: 4000, on a GPU 12000{note}",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="sentences in a batch")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
