"""What the measurements of speed have in common: their flags, and the state of the process."""

import argparse
from typing import Collection, List


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=7, help="measured steps; default: 7")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--out", metavar="FILE.json", help="write the measurements here")


def chosen_variants(args: argparse.Namespace, known: Collection[str]) -> List[str]:
    """Return --variants, refusing one that is not known."""
    from ..errors import refuse

    variants = args.variants.split(",")
    for name in variants:
        if name not in known:
            refuse(f"--variants {name}: choose from {', '.join(known)}")
    return variants


def check_device(args: argparse.Namespace) -> None:
    """Refuse a GPU where there is none."""
    import torch

    from ..errors import refuse

    if args.device == "cuda" and not torch.cuda.is_available():
        refuse("--device cuda: this machine has no GPU that torch can use")


def prepare(args: argparse.Namespace) -> None:
    """Set threads and memory of this process, as training would."""
    import torch

    from ..host_memory import keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()
