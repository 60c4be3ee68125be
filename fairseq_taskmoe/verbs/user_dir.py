"""Print the folder that fairseq's commands take as --user-dir.

fairseq-train DATA --user-dir "$(taskmoe user-dir)" --task translation_task_moe ...
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def user_dir() -> Path:
    """Return the absolute folder of this package."""
    return Path(__file__).resolve().parents[1]


def run(args: argparse.Namespace) -> None:
    print(user_dir())
