"""What flags of several verbs have in common."""

import argparse
from typing import List, NoReturn

from ..errors import refuse


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered with one line and without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def refuse_empty(args: argparse.Namespace) -> None:
    """Refuse flags whose value is empty, as of a variable of the shell that is not set."""
    for name, value in vars(args).items():
        if value == "":
            refuse(f"--{name.replace('_', '-')}: give a value")


def pairs_in_flag(args: argparse.Namespace, name: str = "lang_pairs") -> List[str]:
    """Return the language pairs that a flag names, none where it was not given."""
    from ..data.named_pairs import named_pairs

    return named_pairs(getattr(args, name), f"--{name.replace('_', '-')}")
