"""What flags of several verbs have in common."""

import argparse

from ..errors import refuse


def refuse_empty(args: argparse.Namespace) -> None:
    """Refuse flags whose value is empty, as of a variable of the shell that is not set."""
    for name, value in vars(args).items():
        if value == "":
            refuse(f"--{name.replace('_', '-')}: give a value")
